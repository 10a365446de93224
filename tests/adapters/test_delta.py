"""Delta: whatever version a client holds, what it is sent brings it to the current one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.adapters import Delta, DeltaUpdate, Patch
from flexlora.errors import AdapterError
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
    """What a client ends with that holds `held`, after what it is sent."""
    before = Delta() if held is None else held
    update = now.since(None if held is None else held.version)
    return multiplied(before if update is None else before.updated(update))


def nbytes(update: DeltaUpdate | None) -> int:
    return 0 if update is None else sum(matrix.nbytes for matrix in update.layers.values())


def whole(now: Delta, held: int | None) -> bool:
    """Whether who holds this version is sent all of Δ, to stand in place of what it holds."""
    update = now.since(held)
    assert update is not None
    assert update.version == now.version
    assert update.start in (None, held)
    return update.start is None and update.layers is now.layers


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
    assert whole(now, 0)
    assert [whole(now, held) for held in (1, 2, 3)] == [False] * 3
    assert now.since(4) is None
    for held, width in ((1, 3), (2, 2), (3, 1)):
        update = now.since(held)
        assert update is not None
        assert update.start == held
        assert {matrix.width for matrix in update.layers.values()} == {width}
    assert nbytes(now.since(1)) < now.nbytes
    assert [patch.version for patch in now.patches] == [2, 3, 4]


def test_the_smaller_form_is_chosen() -> None:
    now = history([4, 3, 3])[-1]  # Δ has width 10; the steps since versions 0, 1, 2: 10, 6, 3
    assert whole(now, 0)
    assert nbytes(now.since(1)) == 6 * (36 + 46) * 4
    assert nbytes(now.since(2)) == 3 * (36 + 46) * 4
    wide = history([12, 9, 9])[-1]  # Δ has width 16; the last two steps together 18
    assert whole(wide, 1)
    assert not whole(wide, 2)


def test_patches_that_outweigh_the_update_are_not_sent() -> None:
    heavy = (Patch(2, step(9, 1)), Patch(3, step(9, 2)))
    now = Delta(3, step(12, 3), heavy)
    assert whole(now, 1)
    assert not whole(now, 2)
    assert nbytes(now.since(2)) == heavy[1].nbytes


def test_without_a_patch_older_versions_are_sent_everything() -> None:
    versions = history([12, 1, 1, 1], frozenset({2}))
    now = versions[-1]
    assert [whole(now, held) for held in range(4)] == [True, True, True, False]


def test_who_holds_nothing_gets_everything_and_who_is_up_to_date_nothing() -> None:
    now = history([4, 1])[-1]
    assert whole(now, None)
    assert now.since(now.version) is None
    assert Delta().since(None) is None
    assert Delta().since(0) is None


def test_a_version_from_the_future_gets_everything() -> None:
    now = history([4, 1])[-1]
    assert whole(now, now.version + 3)


def test_an_update_is_added_to_the_version_it_was_made_for_and_to_no_other() -> None:
    versions = history([12, 1, 1])
    update = versions[-1].since(1)
    assert update is not None
    with pytest.raises(AdapterError, match=r"from version 1 came to one that holds version 2; ask"):
        versions[2].updated(update)
    assert versions[1].updated(update).version == 3


def test_advancing_leaves_the_old_version_as_it_is() -> None:
    first = history([4])[-1]
    layers, patches = dict(first.layers), first.patches
    second = first.advanced(step(4, 9), step(1, 3))
    assert (first.version, second.version) == (1, 2)
    assert dict(first.layers) == layers
    assert first.patches == patches
    assert second.nbytes == sum(part.nbytes for part in second.layers.values())
