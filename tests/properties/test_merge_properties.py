"""Merging against dense float64, over ranks, scales, weights, dtypes, kinds and missing layers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexlora.merging import merge
from matrices import NOISE
from peft_folders import PREFIX, config_of, stored, updates, weighted, write_folder
from reference import gaussian, tail_norm

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Name → the kind, and the shapes of a and b but for the rank.
LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "h.0.q": ("linear", (5,), (8,)),
    "h.0.k": ("linear", (9,), (2,)),
    "h.1.q": ("linear", (1,), (6,)),
    "embed": ("embedding", (11,), (4,)),
    "conv": ("convolution", (2, 3), (7, 1)),
}


@dataclass(frozen=True)
class Given:
    """One adapter: layer → rank; α of the pattern; how it is stored."""

    ranks: tuple[tuple[str, int], ...]
    alpha: float
    pattern: float
    rslora: bool
    dtype: torch.dtype
    seed: int

    def write(self, folder: Path) -> Path:
        tensors: dict[str, Tensor] = {}
        for place, (name, rank) in enumerate(self.ranks):
            kind, a, b = LAYERS[name]
            infix, suffix = ("lora_embedding_", "") if kind == "embedding" else ("lora_", ".weight")
            for side, shape in (("A", (rank, *a)), ("B", (b[0], rank, *b[1:]))):
                # Few seeds, so that adapters share directions, or cancel.
                tensor = gaussian(*shape, seed=self.seed + 10 * place + ord(side))
                tensors[f"{name}.{infix}{side}{suffix}"] = tensor.to(self.dtype)
        r = self.ranks[0][1]
        return write_folder(
            folder,
            tensors,
            r=r,
            alpha=self.alpha,
            use_rslora=self.rslora,
            rank_pattern={name: rank for name, rank in self.ranks if rank != r},
            alpha_pattern={"q": self.pattern},
        )


def adapters(least: int = 1) -> st.SearchStrategy[list[Given]]:
    one = st.builds(
        Given,
        ranks=st.lists(
            st.tuples(st.sampled_from(sorted(LAYERS)), st.integers(1, 10)),
            min_size=1,
            unique_by=lambda pair: pair[0],
        ).map(tuple),
        alpha=st.sampled_from([1, 16, 0.3, -2.0]),
        pattern=st.sampled_from([8, 1e-3, 5.5]),
        rslora=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 2),
    )
    return st.lists(one, min_size=least, max_size=4)


weights = st.lists(st.sampled_from([1.0, 0.0, -1.0, 0.25, -0.5, 3.0, 1e-3]), min_size=4, max_size=4)


@contextmanager
def written(given_adapters: list[Given]) -> Iterator[tuple[list[Path], Path]]:
    """Folders of the adapters, and a place for the merge."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        yield [one.write(place / f"{i}") for i, one in enumerate(given_adapters)], place / "out"


def rounding(folders: list[Path], given_weights: list[float]) -> dict[str, float]:
    """Layer → the distance that rounding to float32 may make, which cancellation does not lower."""
    found: dict[str, float] = {}
    for folder, weight in zip(folders, given_weights, strict=True):
        for name, update in updates(folder).items():
            # A sum of columns' norms is at most √rank times the norm; ranks end at 10.
            found[name] = found.get(name, 0.0) + 10 * NOISE * abs(weight) * float(update.norm())
    return found


def away(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm())


@settings(max_examples=60)
@given(made=adapters(), by=weights)
@example(  # What cancels leaves rank 0.
    made=[Given((("h.0.q", 3),), 16, 8, False, torch.float32, 0)] * 2, by=[1.0, -1.0, 0.0, 0.0]
)
def test_at_full_rank_it_is_the_sum(made: list[Given], by: list[float]) -> None:
    by = by[: len(made)]
    assume(any(by))
    with written(made) as (folders, out):
        done = merge(folders, out, force=True, weights=by, rank="full", dtype="float32")
        wanted, got, limits = weighted(folders, by), updates(out), rounding(folders, by)
        assert set(got) == set(wanted) == {layer.name for layer in done.layers}
        for layer in done.layers:
            name = layer.name
            assert away(got[name], wanted[name]) <= limits[name]
            assert abs(layer.norm - float(wanted[name].norm())) <= limits[name]
            assert layer.error == 0.0
            assert layer.rank <= min(layer.m, layer.n, sum(rank or 0 for rank in layer.ranks))
            assert layer.ranks == tuple(dict(one.ranks).get(name) for one in made)
            assert (layer.kind, (layer.m, layer.n)) == (LAYERS[name][0], tuple(wanted[name].shape))


@settings(max_examples=60)
@given(
    made=adapters(), by=weights, rank=st.integers(1, 8), split=st.sampled_from(["left", "balanced"])
)
def test_at_a_rank_it_is_as_near_as_can_be_and_says_how_near(
    made: list[Given], by: list[float], rank: int, split: Any
) -> None:
    by = by[: len(made)]
    assume(any(by))
    with written(made) as (folders, out):
        done = merge(folders, out, force=True, weights=by, rank=rank, split=split, dtype="float32")
        wanted, got, limits = weighted(folders, by), updates(out), rounding(folders, by)
        for layer in done.layers:
            optimum = tail_norm(wanted[layer.name], rank)
            assert layer.rank <= rank
            assert abs(away(got[layer.name], wanted[layer.name]) - optimum) <= limits[layer.name]
            assert abs(layer.error - optimum) <= limits[layer.name]


@settings(max_examples=40)
@given(made=adapters(), by=weights, energy=st.sampled_from([0.3, 0.9, 0.999, 1.0]))
def test_energy_is_kept_with_the_fewest_directions(
    made: list[Given], by: list[float], energy: float
) -> None:
    by = by[: len(made)]
    assume(any(by))
    with written(made) as (folders, out):
        done = merge(folders, out, force=True, weights=by, energy=energy, dtype="float32")
        wanted, limits = weighted(folders, by), rounding(folders, by)
        for layer in done.layers:
            whole, limit = float(wanted[layer.name].norm()), limits[layer.name]
            if whole <= limit:
                continue  # Nothing but rounding is left, and of that any rank is right.
            slack = 3.0 * limit / whole
            kept = 1.0 - (tail_norm(wanted[layer.name], layer.rank) / whole) ** 2
            fewer = 1.0 - (tail_norm(wanted[layer.name], layer.rank - 1) / whole) ** 2
            assert kept >= energy - slack
            assert fewer <= energy + slack
            assert layer.share <= 1.0 - energy + slack


@settings(max_examples=30)
@given(made=adapters(2), by=weights, data=st.data())
def test_the_order_of_adapters_changes_nothing_beyond_rounding(
    made: list[Given], by: list[float], data: st.DataObject
) -> None:
    by = by[: len(made)]
    assume(any(by))
    order = data.draw(st.permutations(range(len(made))))
    with written(made) as (folders, out):
        merge(folders, out, force=True, weights=by, rank="full", dtype="float32")
        turned = out.with_name("turned")
        other = [by[i] for i in order]
        merge(
            [folders[i] for i in order],
            turned,
            force=True,
            weights=other,
            rank="full",
            dtype="float32",
        )
        one, two, limits = updates(out), updates(turned), rounding(folders, by)
        assert set(one) == set(two)
        for name in one:
            assert away(one[name], two[name]) <= limits[name]


@given(one=adapters().map(lambda made: made[0]))
def test_one_adapter_comes_back_bit_for_bit(one: Given) -> None:
    with written([one]) as (folders, out):
        assert merge(folders, out, rank="full", compact=True).untouched
        before, after = stored(folders[0]), stored(out)
        assert set(before) == set(after)
        for key, tensor in before.items():
            assert after[key].dtype == tensor.dtype
            assert torch.equal(after[key], tensor)
        note = out / "flexlora.json"
        noted = json.loads(note.read_text())["scales"] if note.exists() else {}
        for name, update in updates(out).items():
            # Where no α of a float64 gives the very same scale, it is noted beside PEFT's files.
            exact = torch.equal(update, updates(folders[0])[name])
            assert exact or (name in noted and away(update, updates(folders[0])[name]) < 1e-12)


@settings(max_examples=30)
@given(made=adapters(), by=weights, dtype=st.sampled_from(["bfloat16", "float16"]))
def test_half_precision_is_rounded_once_at_the_end(
    made: list[Given], by: list[float], dtype: str
) -> None:
    by = by[: len(made)]
    assume(any(by))
    with written(made) as (folders, out):
        merge(folders, out, force=True, weights=by, rank="full", dtype=dtype)
        exact = out.with_name("exact")
        merge(folders, exact, force=True, weights=by, rank="full", dtype="float32")
        assert config_of(out) == config_of(exact)
        rounded, known = stored(out), stored(exact)
        assert set(rounded) == set(known)
        for key, tensor in known.items():
            assert key.startswith(PREFIX)
            assert torch.equal(rounded[key], tensor.to(getattr(torch, dtype)))
