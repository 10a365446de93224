"""Memory is flat in the number of clients: of a round, only those in hand are held."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flexlora.adapters import Factors
from flexlora.engines.in_process import InProcess
from flexlora.engines.jobs import Job, Outcome, Reply
from flexlora.federation.doors import run
from small import small

FEW, MANY, AT_ONCE = 8, 64, 4


class Held:
    """Bytes of the objects of one kind that are alive, and the most that they ever were."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[Any], size: Callable[[Any], int]
    ) -> None:
        self.now = self.most = 0
        inner = kind.__init__

        def made(new: Any, *given: Any, **named: Any) -> None:
            inner(new, *given, **named)
            self._add(size(new))
            weakref.finalize(new, self._add, -size(new))

        monkeypatch.setattr(kind, "__init__", made)

    def _add(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)


def most_held(folder: Path, clients: int) -> dict[str, int]:
    """Bytes of factors, and of serialised replies, in rounds of so many clients of one rank."""
    config = small(
        data={"train_tasks": 16, "examples_per_task": clients // 8},
        partition={"by": "iid", "clients": clients},
        clients={"mix": {"all": 1.0}, "types": {"all": 3}},
        training={"max_steps": 1, "batch_size": 1},
        federation={"rounds": 2, "clients_per_round": clients},
        evaluation={"every": 0, "on_clients": "off", "unseen": False},
        run={"clients_at_once": AT_ONCE},
    )
    with pytest.MonkeyPatch.context() as patched:
        held = {
            "factors": Held(patched, Factors, lambda f: f.a.nbytes + f.b.nbytes),
            "replies": Held(patched, Reply, lambda reply: len(reply.payload)),
        }
        run(config, folder)
    return {name: count.most for name, count in held.items()}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return most_held(tmp_path_factory.mktemp("few") / "run", FEW)


def test_no_more_is_held_of_many_clients_than_of_few(few: dict[str, int], tmp_path: Path) -> None:
    assert most_held(tmp_path / "run", MANY) == few


def test_the_measure_shows_an_engine_that_holds_all_replies(
    few: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = InProcess.exchange

    def all_at_once(self: InProcess, jobs: Sequence[Job]) -> Iterator[Outcome]:
        return iter(list(exchange(self, jobs)))

    monkeypatch.setattr(InProcess, "exchange", all_at_once)
    assert most_held(tmp_path / "run", MANY)["replies"] > MANY / FEW / 2 * few["replies"]
