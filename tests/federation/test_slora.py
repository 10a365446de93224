"""Whole runs of host slora: sparse rounds, then any rule from the SVD of what they learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.config.config import Config
from flexlora.errors import ConfigError, RunError
from flexlora.federation import Session, Setup, continue_run, prepare, resume, run
from flexlora.rules import make_rule
from flexlora.runs.events import Event, Replied, RoundBegun, RoundEnded
from flexlora.runs.readout import load_adapter, load_state
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small

Tables = dict[str, dict[str, Any]]


def slora(rule: str = "flexlora", **changes: dict[str, Any]) -> Config:
    """Two sparse rounds of four, all clients in each."""
    training = {"host": "slora", "sparse_rounds": 2, "learning_rate": 3e-3}
    federation = {"rounds": 4, "clients_per_round": 3}
    return small(
        rule={"name": rule},
        training=training | changes.pop("training", {}),
        federation=federation | changes.pop("federation", {}),
        **changes,
    )


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.fixture(scope="module")
def whole(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(slora(), tmp_path_factory.mktemp("whole") / "r", setup=setup).folder


class StopsIn:
    """An observer that ends the process's part in the middle of a round, or after it."""

    def __init__(self, round: int, *, after: bool) -> None:
        self.round = round
        self.after = after

    def told(self, event: Event) -> None:
        kind = RoundEnded if self.after else Replied
        if isinstance(event, kind):
            round = event.record.round if isinstance(event, RoundEnded) else event.round
            if round == self.round:
                raise KeyboardInterrupt


@pytest.mark.parametrize("rule", ["flexlora", "fedit", "flora"])
def test_a_rule_goes_on_from_what_the_sparse_rounds_learned(
    rule: str, setup: Setup, tmp_path: Path
) -> None:
    folder = run(slora(rule), tmp_path / "r", setup=setup).folder
    opened = Run.open(folder)
    records = opened.records()
    assert [record.sparse for record in records] == [True, True, False, False]
    begun = opened.events(RoundBegun)
    assert [event.sparse for event in begun] == [True, True, False, False]
    assert all(record.validation is not None for record in records)
    assert [r.on_clients.tuned is None for r in records if r.on_clients] == [
        True,
        True,
        False,
        False,
    ]
    losses = [r.validation.values["loss"] for r in records if r.validation is not None]
    assert losses[3] < losses[0]
    learned = make_rule(rule).learned(load_state(opened, "last"))
    assert all(float(x.norm()) > 0.0 for x in learned.values())
    json.dumps([record.to_json() for record in records])


def test_what_is_counted_is_what_is_sent(setup: Setup, whole: Path) -> None:
    """As foretold, to the byte: all three clients of a round are known by their type."""
    opened, told = Run.open(whole), Session.of(slora(), setup).preview().forecast
    assert told.sparse is not None
    assert told.sparse.rounds == 2
    for record in opened.records():
        kinds = {kind.name: kind for kind in told.types}
        up = {name: kind.bytes_up for name, kind in kinds.items()}
        down = {name: kind.bytes_down for name, kind in kinds.items()}
        if record.sparse:
            up, down = dict(told.sparse.bytes_up), dict.fromkeys(kinds, told.sparse.bytes_down)
        assert record.bytes_up == sum(up[name] * n for name, n in record.types.items())
        assert record.bytes_down == sum(down[name] * n for name, n in record.types.items())
    each = told.bytes_down_per_round + told.mean_bytes_up
    sparse = told.sparse.bytes_down_per_round + told.sparse.bytes_up_per_round
    to_score = sum(x.total_bytes_down - x.bytes_down for x in opened.records())
    assert told.bytes_evaluating == pytest.approx(to_score)
    assert told.total_bytes == pytest.approx(2 * each + 2 * sparse + to_score)
    low = min(told.sparse.bytes_up.values())
    assert low < told.sparse.bytes_down == max(told.sparse.bytes_up.values())
    replied = [event for event in opened.events(Replied) if event.round == 1]
    assert sum(event.bytes_up for event in replied) == opened.records()[0].bytes_up


@pytest.mark.parametrize(
    ("round", "after"),
    [(1, False), (1, True), (2, False), (2, True), (3, False), (3, True)],
    ids=lambda x: str(x),
)
def test_a_run_that_was_stopped_ends_at_the_same_bits(
    round: int, after: bool, setup: Setup, whole: Path, tmp_path: Path
) -> None:
    stops = StopsIn(round, after=after)
    with pytest.raises(KeyboardInterrupt):
        run(slora(), tmp_path / "r", setup=setup, observer=stops)
    resume(tmp_path / "r")
    assert_same_run(tmp_path / "r", whole)


def test_a_state_of_a_sparse_round_is_handed_out(setup: Setup, tmp_path: Path) -> None:
    """As the adapter that LoRA would begin with."""
    with pytest.raises(KeyboardInterrupt):
        run(slora(), tmp_path / "r", setup=setup, observer=StopsIn(2, after=False))
    adapter = load_adapter(tmp_path / "r", "full", "last")
    assert set(adapter.ranks.values()) == {4}
    assert all(float(f.product().norm()) > 0.0 for f in adapter.values())


def test_without_gain_a_run_ends_no_sooner_than_adapters_could(
    setup: Setup, tmp_path: Path
) -> None:
    """At a learning rate that ruins everything from the first round on."""
    wild = {"learning_rate": 1.0}
    config = slora(training=wild, federation={"patience": 1, "rounds": 5})
    records = Run.open(run(config, tmp_path / "r", setup=setup).folder).records()
    assert [record.sparse for record in records[:3]] == [True, True, False]


def test_a_continued_run_is_that_of_one_long_one(setup: Setup, whole: Path, tmp_path: Path) -> None:
    longer = run(slora(federation={"rounds": 5}), tmp_path / "long", setup=setup).folder
    more = continue_run(whole, {"federation": {"rounds": 5}}, tmp_path / "more").folder
    ours, theirs = (load_state(Run.open(x), 5) for x in (more, longer))
    for name, layer in theirs.layers.items():
        assert all(torch.equal(ours.layers[name][key], x) for key, x in layer.items())


def test_a_continued_run_changes_no_stage(whole: Path, setup: Setup, tmp_path: Path) -> None:
    plain = run(small(federation={"rounds": 1}), tmp_path / "plain", setup=setup).folder
    late: Tables = {"training": {"host": "slora"}, "federation": {"rounds": 9}}
    with pytest.raises(RunError, match="sparse rounds come before all others"):
        continue_run(plain, late, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(slora(), tmp_path / "half", setup=setup, observer=StopsIn(2, after=False))
    others: list[Tables] = [
        {"clients": {"types": {"low": 2, "high": 6}}},
        {"training": {"sparse_rounds": 3}},
    ]
    for tables in others:
        with pytest.raises(RunError, match="at round 1 of 2 sparse rounds"):
            continue_run(tmp_path / "half", tables, tmp_path / "b")
    more = continue_run(tmp_path / "half", {}, tmp_path / "c").folder
    ours, theirs = (load_state(Run.open(x), 4) for x in (more, whole))
    for name, layer in theirs.layers.items():
        assert all(torch.equal(ours.layers[name][key], x) for key, x in layer.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": {"rounds": 2}}, "sparse rounds are 2, but federation.rounds is 2"),
        ({"model": {"quantise": "4bit"}}, "model.quantise is 4bit, and weights of so few bits"),
        (
            {"model": {"init_from": "x"}},
            "model.init_from is x, and sparse rounds begin at the base",
        ),
        ({"screens": {"norm_clip": {}}}, r"\[screens\] has norm_clip, and screens judge adapters"),
    ],
)
def test_what_does_not_go_with_it_is_told_before_anything_is_read(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Session.of(slora(**changes))


def test_where_every_client_trains_alone_no_round_is_sparse(setup: Setup, tmp_path: Path) -> None:
    config = slora(federation={"mode": "local", "rounds": 2})
    records = Run.open(run(config, tmp_path / "r", setup=setup).folder).records()
    assert [record.sparse for record in records] == [False, False]
