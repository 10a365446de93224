"""With how many CPU threads a federation computes, whatever was prepared before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.federation import Session, prepare, threads
from flexlora.federation.threads import use_threads
from flexlora.runs.run_directory import Run
from small import small


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_own", None)
    monkeypatch.setattr(threads, "_set", None)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_torchs_own_choice_is_not_what_an_earlier_config_asked_for() -> None:
    assert [use_threads(n) for n in (None, 3, None, 1, None)] == [2, 3, 2, 1, 2]
    assert torch.get_num_threads() == 2


def test_what_somebody_else_sets_is_torchs_choice_from_then_on() -> None:
    use_threads(3)
    torch.set_num_threads(4)
    assert [use_threads(n) for n in (None, 1, None)] == [4, 1, 4]


def test_a_setup_keeps_its_threads_whatever_is_prepared_after_it(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"federation": {"rounds": 1}, "evaluation": {"unseen": False}}
    first = Session.of(small(**quick, run={"threads": 1}))
    made = first.setup
    other = prepare(small(**quick, run={"threads": None}), made)
    assert (made.threads, other.threads, torch.get_num_threads()) == (1, 2, 2)
    run = Run.open(first.play(tmp_path / "r").folder)
    assert torch.get_num_threads() == 1
    assert run.resolved["threads"] == run.environment["threads"] == 1
