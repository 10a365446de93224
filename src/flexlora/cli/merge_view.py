"""What `flexlora merge` prints: ranks in, rank out, and what was discarded, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from flexlora.adapters.anatomy import kinds
from flexlora.cli.console import say, screen
from flexlora.cli.form_words import form_words
from flexlora.cli.layer_tables import SHOWN, layer_table, shared_prefix
from flexlora.formats.words import count, size, span
from flexlora.merging import Merged, MergedLayer

_TOKENIZER = {
    "none": "",
    "kept": ", with the tokenizer that lay beside",
    "differ": "; the tokenizers beside the adapters differ, so none lies beside it",
}


def merged_json(merged: Merged) -> dict[str, Any]:
    """Plain values for JSON: the whole, then every layer."""
    return {
        "out": str(merged.out),
        "adapters": [str(path) for path in merged.adapters],
        "weights": list(merged.weights),
        "zero": list(merged.zero),
        "initial": [str(start) if start else None for start in merged.initial],
        "lacking": [list(names) for names in merged.lacking],
        "dtype": merged.dtype,
        "one_rank": merged.one_rank,
        "tokenizer": merged.tokenizer,
        "parameters": merged.parameters,
        "bytes": merged.nbytes,
        "norm": merged.norm,
        "error": merged.error,
        "discarded": merged.share,
        "layers": {
            layer.name: {**asdict(layer), "ranks": list(layer.ranks), "discarded": layer.share}
            for layer in merged.layers
        },
    }


def show_merged(merged: Merged, *, everything: bool) -> None:
    """What went in, a table of layers (or of kinds of layers), and what came out."""
    went_in = zip(merged.adapters, merged.initial, merged.weights, strict=True)
    for letter, (path, start, weight) in zip(_letters(merged), went_in, strict=True):
        less = f" less {start}, which it began from" if start else ""
        say(f"{letter} = {path}{less}, weight {weight:.4g}")
    layers = merged.layers
    single = everything or len(layers) <= SHOWN
    names = [x.name for x in layers] if single else list(kinds(layers))
    prefix = shared_prefix(names)
    if prefix:
        say(f"names begin with {prefix}")
    say()
    groups = [(x,) for x in layers] if single else list(kinds(layers).values())
    screen(wide=True).print(_table([name.removeprefix(prefix) for name in names], groups, merged))
    if not single:
        say()
        say(f"{len(layers):,} layers, by kind; --all shows each of them")
    say()
    for letter, lacked in zip(_letters(merged), merged.lacking, strict=True):
        if lacked:
            where = f"{len(lacked):,} of {count(len(layers), 'layer')}"
            say(f"– : {letter} lacks {where} and counts as zero there")
    for letter, zero in zip(_letters(merged), merged.zero, strict=True):
        if zero:
            say(f"{letter} changes nothing: its A or its B is zero in every layer")
    say(
        f"{count(len(layers), 'layer')}, {count(merged.parameters, 'parameter')} of "
        f"{merged.dtype}, discarded {_percent(merged.share)} of the energy "
        f"(‖error‖ = {merged.error:.3g} of ‖ΔW‖ = {merged.norm:.4g})"
    )
    convention = (
        "tensors as they were"
        if merged.untouched
        else form_words(merged.one_rank, file=merged.out.is_file())
    )
    say(
        f"{size(merged.nbytes)} written to {merged.out}, {convention}{_TOKENIZER[merged.tokenizer]}"
    )


def _table(names: Sequence[str], groups: Sequence[Sequence[MergedLayer]], merged: Merged) -> Table:
    letters = _letters(merged)
    columns: dict[str, list[str] | None] = {}
    if any(len(group) > 1 for group in groups):
        columns["count"] = [str(len(group)) for group in groups]
    if len(letters) <= 6:
        for place, letter in enumerate(letters):
            columns[f"rank {letter}"] = [
                _ranks([layer.ranks[place] for layer in group]) for group in groups
            ]
    else:
        columns["ranks in"] = [
            _ranks([rank for layer in group for rank in layer.ranks]) for group in groups
        ]
    columns["rank"] = [span([layer.rank for layer in group]) for group in groups]
    columns["‖ΔW‖"] = [span([layer.norm for layer in group], 3) for group in groups]
    columns["discarded"] = [_percent(_share(group)) for group in groups]
    if any(layer.kind != "linear" for group in groups for layer in group):
        columns["kind"] = [group[0].kind for group in groups]
    return layer_table("layer", names, columns)


def _letters(merged: Merged) -> list[str]:
    """A, B, … Z; numbers where there are more."""
    many = len(merged.adapters)
    return [chr(ord("A") + i) if many <= 26 else f"#{i + 1}" for i in range(many)]


def _ranks(ranks: Sequence[int | None]) -> str:
    """The least and the most of those that are there; "–" for a layer that an adapter lacks."""
    known = [rank for rank in ranks if rank is not None]
    if not known:
        return "–"
    return span(known) + (" or –" if len(known) < len(ranks) else "")


def _share(group: Sequence[MergedLayer]) -> float:
    whole = math.hypot(*(layer.norm for layer in group))
    return (math.hypot(*(layer.error for layer in group)) / whole) ** 2 if whole else 0.0


def _percent(share: float) -> str:
    return "0 %" if share == 0.0 else f"{100.0 * share:.3g} %"
