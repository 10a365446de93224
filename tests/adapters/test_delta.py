"""Delta: whatever version a client holds, what it is sent brings it to the current one."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.adapters import Delta, Patch
from flexlora.lowrank import LowRank, svd
from reference import assert_close, dense, gaussian

SHAPES = {"q": (20, 16), "up": (30, 16)}
Dense = dict[str, torch.Tensor]


def step(width: int, seed: int) -> dict[str, LowRank]:
    return {
        name: LowRank(gaussian(m, width, seed=seed), gaussian(width, n, seed=seed + 50))
        for name, (m, n) in SHAPES.items()
    }


def history(widths: list[int], whole_at: frozenset[int] = frozenset()) -> list[Delta]:
    """Every version of a Δ that grows by steps of these widths, kept compressed."""
    versions = [Delta()]
    for i, width in enumerate(widths):
        added, before = step(width, i), versions[-1]
        after = {
            name: svd(before.layers[name] + part if before.layers else part).low_rank()
            for name, part in added.items()
        }
        versions.append(before.advanced(after, None if i in whole_at else added))
    return versions


def multiplied(delta: Delta) -> Dense:
    return {name: dense(part) for name, part in delta.layers.items()}


def received(held: Delta | None, now: Delta) -> Dense:
    """What a client ends with: Δ whole stands in place of what it held, patches are added."""
    parts = now.since(None if held is None else held.version)
    whole = len(parts) == 1 and parts[0] is now.layers
    start = {} if held is None or whole else multiplied(held)
    total = {name: start.get(name, torch.zeros(*shape)).double() for name, shape in SHAPES.items()}
    for part in parts:
        for name, matrix in part.items():
            total[name] = total[name] + dense(matrix)
    return total


def nbytes(parts: tuple) -> int:
    return sum(matrix.nbytes for part in parts for matrix in part.values())


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=7),
    st.frozensets(st.integers(0, 6), max_size=2),
)
def test_every_held_version_is_brought_up_to_date(
    widths: list[int], whole_at: frozenset[int]
) -> None:
    versions = history(widths, whole_at)
    now = versions[-1]
    for held in [None, *versions]:
        got = received(held, now)
        for name, wanted in multiplied(now).items():
            assert_close(got[name], wanted, 1e-5)
        version = None if held is None else held.version
        assert nbytes(now.since(version)) <= now.nbytes


def test_small_steps_on_a_large_update_travel_as_patches() -> None:
    versions = history([12, 1, 1, 1])
    now = versions[-1]
    assert [len(now.since(v)) for v in range(5)] == [1, 3, 2, 1, 0]
    assert now.since(0)[0] is now.layers
    assert now.since(3)[0] is now.patches[-1].layers
    assert nbytes(now.since(1)) < now.nbytes
    assert [patch.version for patch in now.patches] == [2, 3, 4]


def test_the_smaller_form_is_chosen() -> None:
    now = history([4, 3, 3])[-1]  # Δ has width 10; the steps since versions 0, 1, 2: 10, 6, 3
    assert now.since(0) == (now.layers,)
    assert nbytes(now.since(1)) == 6 * (36 + 46) * 4
    assert nbytes(now.since(2)) == 3 * (36 + 46) * 4
    wide = history([12, 9, 9])[-1]  # Δ has width 16; the last two steps together 18
    assert wide.since(1) == (wide.layers,)
    assert len(wide.since(2)) == 1
    assert wide.since(2)[0] is not wide.layers


def test_patches_that_outweigh_the_update_are_not_sent() -> None:
    heavy = (Patch(2, step(9, 1)), Patch(3, step(9, 2)))
    now = Delta(3, step(12, 3), heavy)
    assert now.since(1) == (now.layers,)
    assert now.since(2) == (heavy[1].layers,)


def test_without_a_patch_older_versions_are_sent_everything() -> None:
    versions = history([12, 1, 1, 1], frozenset({2}))
    now = versions[-1]
    assert [part is now.layers for held in (0, 1, 2) for part in now.since(held)] == [True] * 3
    assert now.since(3)[0] is not now.layers


def test_who_holds_nothing_gets_everything_and_who_is_up_to_date_nothing() -> None:
    now = history([4, 1])[-1]
    assert now.since(None) == (now.layers,)
    assert now.since(now.version) == ()
    assert Delta().since(None) == ()
    assert Delta().since(0) == ()


def test_a_version_from_the_future_gets_everything() -> None:
    now = history([4, 1])[-1]
    assert now.since(now.version + 3) == (now.layers,)


def test_advancing_leaves_the_old_version_as_it_is() -> None:
    first = history([4])[-1]
    layers, patches = dict(first.layers), first.patches
    second = first.advanced(step(4, 9), step(1, 3))
    assert (first.version, second.version) == (1, 2)
    assert dict(first.layers) == layers
    assert first.patches == patches
    assert second.nbytes == sum(part.nbytes for part in second.layers.values())
