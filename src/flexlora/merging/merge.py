"""Adapters of different ranks become one: exactly summed, and cut to a rank or to an energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal

import torch

from flexlora.adapters import Factors, checked_split
from flexlora.adapters.kept import require_rank_or_energy
from flexlora.errors import AdapterError, ConfigError, RankError
from flexlora.formats.peft_form import Form
from flexlora.formats.peft_keys import pair_keys
from flexlora.formats.peft_reader import PeftLayer, PeftReader
from flexlora.formats.peft_writer import TASK_TYPE, peft_folder
from flexlora.lowrank import LowRank, Matrix, Split, Truncation, best, svd, total
from flexlora.merging.inputs import checked_weights, opened, union, whole
from flexlora.merging.merged import Merged, MergedLayer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CutDown = Callable[[Matrix], Truncation]
Watch = Callable[[int, int], None]


def merge(
    adapters: Sequence[Path | str],
    out: Path | str,
    *,
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
    """Write Σ weight · ΔW of PEFT folders as a new PEFT folder, each layer at the rank asked for.

    adapters: folders with linear, embedding or convolution LoRA of any ranks, α, rsLoRA, patterns
    and dtypes. A layer that one of them lacks counts as zero there. weights: one each, negative
    ones too; None for the mean, 1/N each. Just one of rank and energy: rank is the highest rank of
    a layer, "full" for all that the sum holds; energy, above 0 and at most 1, keeps that share of
    ‖·‖²_F with the fewest directions, layer by layer. split: "left" puts the singular values into
    B and leaves orthonormal rows in A, "balanced" gives each side their root. dtype: "float32",
    "bfloat16" or "float16" as stored; None for the widest of the inputs. compact: each layer at its
    own rank, with PEFT's patterns, which other readers may pass over; else one rank for all, filled
    up with zeros. serve: "vllm" for a rank that vLLM supports and nothing that it refuses. force:
    merge though the folders name different base models or share no layer. watch: told layers done
    and in all.

    Guarantees: each layer is the best approximation of its rank, to rounding of float32, whatever
    the inputs' dtype. What is written has scale 1: α = r in every layer, rsLoRA off. One adapter
    alone, of weight 1 at rank "full", is not decomposed: its sides stay but for the scale, and if
    compact bit for bit (unless a dtype is asked for). Layers are read, merged and written one by
    one: memory is one layer's work. The folder appears whole or not at all.
    Raises ConfigError or RankError for options that make no sense, AdapterError for folders that
    cannot be summed, RunError where `out` exists.
    """
    given = checked_weights(len(adapters), weights)
    cut_down = _reduction(rank, energy)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype}; give one of {', '.join(DTYPES)}")
    checked_split(split, "split")
    form = Form.of(compact=compact, serve=serve)
    if isinstance(rank, int) and form.server is not None:
        form.one_rank([rank])
    with opened(adapters, force=force) as readers:
        layers = union(readers)
        stored = DTYPES[dtype] if dtype else _widest(readers)
        alone = len(readers) == 1 and given == (1.0,) and rank == "full" and dtype is None
        done, changed = [], not alone
        moving: set[int] = set()
        with peft_folder(
            out,
            _keys(readers, layers),
            base=next((reader.base for reader in readers if reader.base), ""),
            base_fingerprint=readers[0].base_fingerprint if _all_known(readers) else "",
            fan_in_fan_out=readers[0].fan_in_fan_out,
            task_type=_task_type(readers),
            modules_to_save=readers[0].config.get("modules_to_save"),
            form=form,
        ) as writer:
            for key, reader in whole(readers).items():
                writer.whole(key, reader.tensor(key))
            for count, (name, layer) in enumerate(layers.items(), 1):
                if alone:
                    factors = readers[0].factors(name)
                    norm, error = factors.product().norm(), 0.0
                    moving |= {0} if _moves(factors) else set()
                else:
                    cut = _cut(cut_down, readers, given, layer, moving)
                    factors = _factors(cut, split, stored, layer, out)
                    error, norm = cut.error, cut.norm
                changed |= not compact and factors.scale != 1.0
                writer.add(name, factors, layer.kind, layer.a_shape[1:])
                ranks = tuple(r.layers[name].rank if name in r.layers else None for r in readers)
                done.append(
                    MergedLayer(
                        name, layer.kind, layer.m, layer.n, ranks, factors.rank, norm, error
                    )
                )
                if watch is not None:
                    watch(count, len(layers))
    folder = Path(out)
    ranks_out = {max(1, layer.rank) for layer in done}
    one_rank = form.one_rank(ranks_out)
    return Merged(
        out=folder,
        adapters=tuple(reader.path for reader in readers),
        weights=given,
        zero=tuple(place not in moving for place in range(len(readers))),
        layers=tuple(done),
        dtype=str(stored).removeprefix("torch."),
        nbytes=sum(file.stat().st_size for file in folder.iterdir()),
        one_rank=one_rank,
        untouched=not changed and (compact or ranks_out == {one_rank}),
    )


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


def _cut(
    cut_down: CutDown,
    readers: Sequence[PeftReader],
    weights: Sequence[float],
    layer: PeftLayer,
    moving: set[int],
) -> Truncation:
    try:
        return cut_down(_sum(readers, weights, layer, moving))
    except ValueError as error:  # Every input is finite, so it is their sum that is not.
        raise AdapterError(
            f"layer {layer.name} becomes infinite when weighted and summed; give smaller weights"
        ) from error


def _sum(
    readers: Sequence[PeftReader], weights: Sequence[float], layer: PeftLayer, moving: set[int]
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
            factors = reader.factors(layer.name)
            if place not in moving and _moves(factors):
                moving.add(place)
            yield weight * factors.scale, factors.unscaled()

    width = sum(reader.layers[layer.name].rank for _, _, reader in holders)
    return total(parts(), (layer.m, layer.n), width)


def _moves(factors: Factors) -> bool:
    return bool(factors.b.any()) and bool(factors.a.any())


def _factors(
    cut: Truncation, split: Split, dtype: torch.dtype, layer: PeftLayer, out: Path | str
) -> Factors:
    kept = cut.kept.low_rank(split)
    factors = Factors(kept.left.to(dtype), kept.right.to(dtype), 1.0)
    if not factors.finite():
        name = str(dtype).removeprefix("torch.")
        raise AdapterError(
            f"layer {layer.name} of {out} would hold values that {name} cannot; "
            "give another dtype, or smaller weights"
        )
    return factors


def _widest(readers: Sequence[PeftReader]) -> torch.dtype:
    """The narrowest dtype that holds every input."""
    dtypes = (layer.dtype for reader in readers for layer in reader.layers.values())
    return reduce(torch.promote_types, dtypes)


def _keys(readers: Sequence[PeftReader], layers: dict[str, PeftLayer]) -> list[str]:
    pairs = [key for name, layer in layers.items() for key in pair_keys(name, layer.kind)]
    return [*pairs, *whole(readers)]


def _all_known(readers: Sequence[PeftReader]) -> bool:
    return len({reader.base_fingerprint for reader in readers}) == 1


def _task_type(readers: Sequence[PeftReader]) -> str | None:
    first, *others = (reader.config.get("task_type", TASK_TYPE) for reader in readers)
    return first if all(other == first for other in others) else None
