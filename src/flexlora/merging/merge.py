"""Adapters of different ranks become one: exactly summed, and cut to a rank or to an energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from flexlora.adapters import Factors, checked_split
from flexlora.adapters.kept import require_rank_or_energy
from flexlora.errors import AdapterError, ConfigError, RankError
from flexlora.formats.adapter_formats import shared_tokenizer, written_like
from flexlora.formats.adapter_reader import AdapterReader, LayerWriter
from flexlora.formats.as_written import scales_exactly
from flexlora.formats.home import expanded
from flexlora.formats.peft_form import Form
from flexlora.formats.stored_dtype import DTYPES as FLOATS
from flexlora.formats.stored_dtype import require_held
from flexlora.formats.stored_layer import StoredLayer, holding
from flexlora.lowrank import LowRank, Matrix, Split, Truncation, best, svd, total
from flexlora.merging.inputs import Starts, checked_initial, checked_weights, opened, union, whole
from flexlora.merging.merged import Merged, MergedLayer

_EIGHT_BITS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
DTYPES = {**FLOATS, **_EIGHT_BITS}
CutDown = Callable[[Matrix], Truncation]
Watch = Callable[[int, int], None]


def merge(
    adapters: Sequence[Path | str],
    out: Path | str,
    *,
    initial: Starts | None = None,
    weights: Sequence[float] | None = None,
    rank: int | Literal["full"] | None = None,
    energy: float | None = None,
    split: Split = "left",
    dtype: str | None = None,
    compact: bool = False,
    serve: str | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Merged:
    """Write Σ weight · ΔW of adapters in the format they came in, layers at the rank asked for.

    adapters: PEFT folders, or single .safetensors files with kohya's or diffusers' keys, for
    which `out` is a file too, of linear, embedding or convolution LoRA, or LoRA on bare
    parameters, each expert a layer, of any ranks, α, rsLoRA, patterns and dtypes. A layer that
    one of them lacks counts as zero there. initial: adapter → the folder that its training began
    from, less which it is taken, exactly, at twice the rank: what PiSSA, OLoRA, CorDA and LoRA-GA
    need, whose start changed the base model. weights: one each, negative ones too; None for the
    mean, 1/N each. At most one of rank and energy: rank is the highest rank of a layer, "full"
    (if neither is given) for all that the sum holds; energy, above 0 and at most 1, keeps that
    share of ‖·‖²_F with the fewest directions, layer by layer. split: "left" puts the singular
    values into B and leaves orthonormal rows in A, "balanced" gives each side their root.
    dtype: "float32", "bfloat16", "float16", "float8_e4m3fn" or "float8_e5m2" as stored; None
    for the widest of the inputs, bfloat16 where these have eight bits. compact: each layer at
    its own rank, with PEFT's patterns, which other readers may pass over; else one rank for
    all, filled up with zeros, but where every layer has an alpha (kohya). serve: "vllm" for a
    rank that vLLM supports and nothing that it refuses. force: merge though the adapters name
    different base models or share no layer. watch: told layers done and in all.

    Guarantees: each layer is the best approximation of its rank, to rounding of float32, whatever
    the inputs' dtype. What is written has scale 1: α = r in every layer, rsLoRA off. One adapter
    alone, of weight 1 at rank "full", is not decomposed: its sides stay but for the scale, and if
    compact bit for bit (unless a dtype is asked for, or it has eight bits); one that is taken less
    its start is, where B would not hold its scale to the last bit. Layers are read, merged and
    written one by one: memory is one layer's work, or that of a parameter with all its experts in
    all adapters.
    What is written appears whole or not at all.
    Raises ConfigError or RankError for options that make no sense, AdapterError for adapters that
    cannot be summed, RunError where `out` exists.
    """
    out = expanded(out)
    given = checked_weights(len(adapters), weights)
    starts = checked_initial(adapters, initial)
    rank = "full" if rank is None and energy is None else rank
    cut_down = _reduction(rank, energy)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype}; give one of {', '.join(DTYPES)}")
    checked_split(split, "split")
    form = Form.of(compact=compact, serve=serve)
    if isinstance(rank, int) and form.server is not None:
        form.one_rank([rank])
    with opened(adapters, starts, out, form, force=force) as readers:
        layers, tokenizer = union(readers), shared_tokenizer(readers)
        stored = DTYPES[dtype] if dtype else _widest(readers)
        alone = len(readers) == 1 and given == (1.0,) and rank == "full" and dtype is None
        done, changed = [], not alone or any(starts)
        moving: set[int] = set()
        dtypes: dict[str, None] = {}  # Of what is written, each once.
        with written_like(
            readers,
            out,
            tuple(layers.values()),
            tuple(whole(readers)),
            form,
            tokenizer or {},
        ) as writer:
            for key, reader in whole(readers).items():
                writer.whole(key, reader.tensor(key))
            for count, (name, layer) in enumerate(layers.items(), 1):
                factors = _undecomposed(readers[0], name, writer) if alone else None
                if factors is not None:
                    exact = readers[0].summand(name) if starts[0] else factors
                    norm, error = exact.product().norm(), 0.0
                    moving |= set() if factors.is_zero() else {0}
                else:
                    cut = _cut(cut_down, readers, given, layer, moving)
                    factors = _factors(cut, split, stored, layer, out)
                    error, norm = cut.error, cut.norm
                changed |= layer.widened or (factors.scale != 1.0 and not writer.keeps_scales)
                writer.add_like(layer, factors)
                dtypes |= dict.fromkeys(str(x.dtype) for x in (factors.b, factors.a))
                ranks = tuple(r.layers[name].rank if name in r.layers else None for r in readers)
                done.append(
                    MergedLayer(
                        name, layer.kind, layer.m, layer.n, ranks, factors.rank, norm, error
                    )
                )
                if watch is not None:
                    watch(count, len(layers))
    one_rank = writer.one_rank
    changed |= one_rank is not None and {one_rank} != {max(1, layer.rank) for layer in done}
    return Merged(
        out=out,
        adapters=tuple(reader.path for reader in readers),
        weights=given,
        initial=starts,
        zero=tuple(place not in moving for place in range(len(readers))),
        layers=tuple(done),
        dtype=" and ".join(x.removeprefix("torch.") for x in dtypes),
        nbytes=_size(out),
        one_rank=one_rank,
        untouched=not changed and out.is_dir(),
        tokenizer="differ" if tokenizer is None else "kept" if tokenizer else "none",
    )


def _size(out: Path) -> int:
    files = out.iterdir() if out.is_dir() else (out,)
    return sum(file.stat().st_size for file in files)


def _reduction(rank: int | str | None, energy: float | None) -> CutDown:
    require_rank_or_energy(rank, energy, "how much of the sum is to be kept")
    if energy is not None:
        share = energy

        def by_energy(matrix: Matrix) -> Truncation:
            spectrum = svd(matrix)
            return spectrum.truncate(spectrum.rank_for(share))

        return by_energy
    if rank == "full":
        return lambda matrix: svd(matrix).truncate(min(matrix.shape))
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise RankError(f"rank is {rank}; give a whole number of 1 or more, or 'full'")
    highest = rank
    return lambda matrix: best(matrix, highest)


def _undecomposed(reader: AdapterReader, name: str, writer: LayerWriter) -> Factors | None:
    """A layer with its sides as they are; None where writing them so would lose what it is.

    Less its start a layer is what two large products differ by: a scale that is rounded into both
    of them would round that away.
    """
    factors = reader.factors(name)
    kept = writer.keeps_scales or not reader.cancels or scales_exactly(factors)
    return factors if kept else None


def _cut(
    cut_down: CutDown,
    readers: Sequence[AdapterReader],
    weights: Sequence[float],
    layer: StoredLayer,
    moving: set[int],
) -> Truncation:
    try:
        return cut_down(_sum(readers, weights, layer, moving))
    except ValueError as error:  # Every input is finite, so it is their sum that is not.
        raise AdapterError(
            f"layer {layer.name} becomes infinite when weighted and summed; give smaller weights"
        ) from error


def _sum(
    readers: Sequence[AdapterReader], weights: Sequence[float], layer: StoredLayer, moving: set[int]
) -> Matrix:
    """Σ weight · ΔW of one layer, factored; a reader's factors are held while they are added.

    moving: is told the places of readers that do change something.
    """
    holders = [
        (place, weight, reader)
        for place, (weight, reader) in enumerate(zip(weights, readers, strict=True))
        if layer.name in reader.layers
    ]

    def parts() -> Iterator[tuple[float, LowRank]]:
        for place, weight, reader in holders:
            factors = reader.summand(layer.name)
            if place not in moving and not factors.is_zero():
                moving.add(place)
            yield weight * factors.scale, factors.unscaled()

    width = sum(reader.layers[layer.name].rank for _, _, reader in holders)
    return total(parts(), (layer.m, layer.n), width)


def _factors(
    cut: Truncation, split: Split, dtype: torch.dtype, layer: StoredLayer, out: Path | str
) -> Factors:
    kept = cut.kept.low_rank(split)
    require_held(
        f"layer {layer.name} of {out}", (kept.left, kept.right), dtype, "give smaller weights"
    )
    return Factors(kept.left.to(dtype), kept.right.to(dtype), 1.0)


def _widest(readers: Sequence[AdapterReader]) -> torch.dtype:
    """The narrowest dtype that holds every input, of two bytes or more."""
    return holding(*(layer.dtype for reader in readers for layer in reader.layers.values()))
