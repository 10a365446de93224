"""What `flexlora inspect` shows of an adapter: a summary, then layers or kinds of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from flexlora.adapters import Adapter, LayerAnatomy, Scaling, dissect
from flexlora.adapters.anatomy import kinds
from flexlora.cli.console import say, screen
from flexlora.cli.form_words import CHANGES_NOTHING
from flexlora.cli.layer_tables import SHOWN, WIDE, layer_table, shared_prefix
from flexlora.formats.words import count, size, span

BARS = "▁▂▃▄▅▆▇█"
_NAMED = 3  # Tensors that a sentence names at most.


def bars(values: Sequence[float], width: int) -> str:
    """Bars for non-negative values, the largest full; zero is blank.

    More values than `width` are shown in `width` groups, each by its mean.
    """
    if len(values) > width:
        cuts = [len(values) * i // width for i in range(width + 1)]
        groups = [values[cuts[i] : cuts[i + 1]] for i in range(width)]
        values = [math.fsum(group) / len(group) for group in groups]
    largest = max(values, default=0.0) or 1.0
    steps = (math.ceil(len(BARS) * value / largest) for value in values)
    return "".join(BARS[min(step, len(BARS)) - 1] if step else " " for step in steps)


def adapter_json(
    path: Path, adapter: Adapter, scaling: Scaling, whole: Sequence[str]
) -> dict[str, Any]:
    """Plain values for JSON: the summary's, and all that is known of every layer.

    whole: keys of tensors that the folder holds beside LoRA.
    """
    layers = dissect(adapter)
    return {
        "kind": "adapter",
        "path": str(path),
        "base": adapter.base or None,
        "base_fingerprint": adapter.base_fingerprint or None,
        "revision": adapter.about.revision or None,
        "scaling": scaling,
        "parameters": adapter.parameters,
        "bytes": sum(x.nbytes for x in layers),
        "bytes_on_disk": _on_disk(path),
        "norm": _norm(layers),
        "zero": _norm(layers) == 0.0,
        "whole": list(whole),
        "layers": {x.name: {**asdict(x), "alpha": _alpha(x, scaling)} for x in layers},
    }


def show_adapter(
    path: Path,
    adapter: Adapter,
    scaling: Scaling,
    whole: Sequence[str],
    *,
    everything: bool,
) -> None:
    """A summary, then every layer, or every kind of layer where they are many.

    whole: keys of tensors that the folder holds beside LoRA.
    """
    layers = dissect(adapter)
    dtypes = " and ".join(dict.fromkeys(x.dtype for x in layers))
    rule = "α/r" if scaling == "lora" else "α/√r"
    base = adapter.base or "a base model that it does not name"
    if adapter.about.revision:
        base += f" as of revision {adapter.about.revision}"
    say(f"adapter {path}, made for {base}{_weights(adapter)}")
    say(
        f"{count(len(layers), 'layer')}, {count(adapter.parameters, 'parameter')} of {dtypes}, "
        f"{size(_on_disk(path))} on disk"
    )
    say(
        f"rank {span([x.rank for x in layers])}, α {span([_alpha(x, scaling) for x in layers])}, "
        f"scale {rule} = {span([x.scale for x in layers])}, "
        f"‖ΔW‖ = {_norm(layers):.4g} over all layers"
    )
    if _norm(layers) == 0.0:
        say(CHANGES_NOTHING)
    if whole:
        say(f"beside LoRA it holds {count(len(whole), 'tensor')} whole: {_some(whole)}")
    console = screen(wide=True)
    wide = console.width >= WIDE
    single = everything or len(layers) <= SHOWN
    prefix = shared_prefix([x.name for x in layers] if single else list(kinds(layers)))
    if prefix:
        say(f"names begin with {prefix}")
    say()
    if single:
        console.print(_layer_table(layers, prefix, scaling, wide=wide))
    else:
        console.print(_kind_table(layers, prefix, wide=wide))
        say()
        say(f"{len(layers):,} layers, by kind; --all shows each of them")


def _layer_table(
    layers: Sequence[LayerAnatomy], prefix: str, scaling: Scaling, *, wide: bool
) -> Table:
    # α and the scale stand in the summary: here where there is room, or where they differ.
    scales = wide or len({x.scale for x in layers}) > 1
    columns = {
        "m × n": [f"{x.m} × {x.n}" for x in layers] if wide else None,
        "rank": [_rank(x) for x in layers],
        "α": [f"{_alpha(x, scaling):.4g}" for x in layers] if wide else None,
        "scale": [f"{x.scale:.4g}" for x in layers] if scales else None,
        "‖ΔW‖": [f"{x.norm:.3g}" for x in layers],
        "eff. rank": [f"{x.effective_rank:.1f}" for x in layers],
        "spectrum": [bars(x.singular_values, 32 if wide else 12) for x in layers],
        "largest": [f"{max(x.singular_values, default=0.0):.3g}" for x in layers],
    }
    if wide:
        columns["least"] = [f"{min(x.singular_values, default=0.0):.3g}" for x in layers]
    return layer_table("layer", [x.name.removeprefix(prefix) for x in layers], columns)


def _kind_table(layers: Sequence[LayerAnatomy], prefix: str, *, wide: bool) -> Table:
    groups = kinds(layers)
    columns = {
        "count": [f"{len(x)}" for x in groups.values()],
        "rank": [span([y.rank for y in x]) for x in groups.values()],
        "‖ΔW‖": [span([y.norm for y in x], 2) for x in groups.values()],
        "eff. rank": [span([y.effective_rank for y in x], 3) for x in groups.values()],
        "mean spectrum": [bars(_mean_spectrum(x), 32 if wide else 12) for x in groups.values()],
        "‖ΔW‖ by depth": [bars([y.norm for y in x], 40 if wide else 12) for x in groups.values()],
    }
    return layer_table("layers", [kind.removeprefix(prefix) for kind in groups], columns)


def _rank(layer: LayerAnatomy) -> str:
    """The rank of the factors; how many directions ΔW really has of it, where they are fewer."""
    used = len(layer.singular_values)
    return f"{layer.rank}" if used == layer.rank else f"{used} of {layer.rank}"


def _mean_spectrum(layers: Sequence[LayerAnatomy]) -> list[float]:
    """The mean of the layers' spectra, each with its largest value as 1; missing ones are 0."""
    shapes = [[s / x.singular_values[0] for s in x.singular_values] for x in layers if x.norm > 0.0]
    longest = max(map(len, shapes), default=0)
    sums = (math.fsum(shape[i] for shape in shapes if i < len(shape)) for i in range(longest))
    return [total / len(shapes) for total in sums]


def _alpha(layer: LayerAnatomy, scaling: Scaling) -> float:
    return layer.scale * (layer.rank if scaling == "lora" else math.sqrt(layer.rank))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _norm(layers: Sequence[LayerAnatomy]) -> float:
    return math.hypot(*(x.norm for x in layers))


def _weights(adapter: Adapter) -> str:
    dtype, _, digest = adapter.base_fingerprint.partition(":")
    return f" ({dtype}, weights {digest[:12]})" if digest else ""


def _on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
