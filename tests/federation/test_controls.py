"""Controls of a federation: all at one rank, each alone, and all examples in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.engines.memories import Memories
from flexlora.errors import ConfigError, RunError
from flexlora.evaluation import EvalClient, evaluate
from flexlora.federation import Session, Setup, continue_run, prepare, resume, run
from flexlora.federation.pooled import EVERYBODY, pooled_schedule
from flexlora.federation.preview import forecast
from flexlora.lowrank import LowRank
from flexlora.runs.readout import load_adapter
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small
from stops import StopsAfter

QUICK = {"on_clients": "off", "metrics": ["loss"], "decide_by": "server"}
LOCAL = small(federation={"mode": "local"}, evaluation={**QUICK, "own_examples": 6})
CENTRAL = small(federation={"mode": "centralised"}, evaluation=QUICK)
TYPES = {"low": 2, "mixed": {"attention": 3, "all": 1}}
SHARES = {"low": 0.5, "mixed": 0.5}


@pytest.fixture(scope="module")
def federated() -> Setup:
    return prepare(small(evaluation=QUICK))


@pytest.fixture(scope="module")
def local(federated: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(LOCAL, tmp_path_factory.mktemp("local") / "run", setup=federated).folder


@pytest.mark.parametrize(("level", "ranks"), [("lowest", (2, 1)), ("highest", (3, 2))])
def test_all_train_at_one_level_layer_by_layer_and_are_handed_their_own(
    level: str, ranks: tuple[int, int], federated: Setup
) -> None:
    config = small(clients={"mix": SHARES, "types": TYPES, "level": level})
    setup = prepare(config, federated, outline=False)
    (found,) = {tuple(sorted(x.items())) for x in setup.roster.ranks.values()}
    by_kind = {"attn" if "attn" in name else "mlp": rank for name, rank in found}
    assert (by_kind["attn"], by_kind["mlp"]) == ranks
    assert setup.spec.highest == setup.spec.lowest
    own = prepare(small(clients={"mix": SHARES, "types": TYPES}), federated)
    assert setup.roster.types == own.roster.types  # Who is of which type stays.
    assert setup.afforded == own.roster.ranks


def test_what_is_handed_out_of_one_level_is_scored_at_each_types_own_rank(
    federated: Setup, tmp_path: Path
) -> None:
    result = run(
        small(clients={"level": "lowest"}, federation={"rounds": 1}, evaluation=QUICK),
        tmp_path / "run",
        setup=federated,
    )
    assert {row.state: row.ranks for row in result.rows[2:]} == {"low": "2", "high": "4"}
    assert load_adapter(tmp_path / "run", type="high").ranks.keys()


def test_alone_nothing_is_sent_and_nothing_is_combined(local: Path, federated: Setup) -> None:
    opened = Run.open(local)
    assert [(x.bytes_up, x.bytes_down) for x in opened.records()] == [(0, 0)] * 3
    assert all(record.tokens for record in opened.records())
    planned = forecast(prepare(LOCAL, federated), Session.of(LOCAL).rule)
    assert (planned.mean_bytes_up, planned.bytes_down_per_round) == (0.0, 0.0)
    assert planned.total_bytes == 0.0
    results = opened.read_results()
    assert results is not None
    assert (results["rule"], results["bytes_up"], results["bytes_down"]) == ("local", 0, 0)
    with pytest.raises(RunError, match="has trained alone and keeps its own adapter, so that"):
        load_adapter(local, 2)


def _kept(folder: Path, client: str, setup: Setup, round: int) -> dict[str, LowRank]:
    memory: Mapping[str, Tensor] = {}
    for back in range(round, 0, -1):
        with suppress(RunError):  # It did not train in that round.
            memory = memory or Memories(folder / "memory").read(client, back)
    ranks = setup.roster.ranks[setup.roster.types[client]]
    scale = {name: setup.spec.scale(rank) for name, rank in ranks.items()}
    return {
        name: LowRank(scale[name] * memory[f"{name}.b"], memory[f"{name}.a"])
        for name in ranks
        if memory
    }


def test_alone_everybody_is_scored_with_what_it_keeps_itself(local: Path, federated: Setup) -> None:
    """On its own examples; who never trained, with the base model."""
    setup = prepare(LOCAL, federated)
    results = Run.open(local).read_results()
    assert results is not None
    base, full = results["rows"]
    assert (base["state"], full["state"]) == ("base", "full")
    assert full["unseen"]["mean"] == pytest.approx(base["unseen"]["mean"])
    scores = {row["client"]: row["loss"] for row in full["own"]["clients"]}
    for client in setup.examples.own:
        setup.model.set_delta(_kept(local, client.id, setup, results["scored_round"]))
        alone = evaluate(setup.model, [EvalClient(client.id, client.examples)], _settings(setup))
        assert scores[client.id] == pytest.approx(alone.clients[0]["loss"], rel=1e-5)
    assert set(full["own"]["types"]) == {setup.roster.types[x.id] for x in setup.examples.own}
    before = {row["client"]: row["loss"] for row in base["own"]["clients"]}
    assert any(abs(scores[name] - before[name]) > 1e-3 for name in scores)


def _settings(setup: Setup) -> Any:
    return replace(setup.settings.final, predictions=0)


def test_alone_a_client_goes_on_from_its_own_adapter(federated: Setup, tmp_path: Path) -> None:
    """Every client every round: each has trained as often as a client of a federation."""
    config = small(
        federation={"mode": "local", "clients_per_round": 1.0, "rounds": 2},
        evaluation={**QUICK, "unseen": False, "every": 0},
    )
    folder = run(config, tmp_path / "run", setup=federated).folder
    setup = prepare(config, federated)
    for client in setup.examples.train:
        first, second = (_kept(folder, client, setup, round) for round in (1, 2))
        for name, part in first.items():
            moved = float((second[name] - part).norm())
            assert 0.0 < moved < 2.5 * float(part.norm()), name


@pytest.mark.parametrize("config", [LOCAL, CENTRAL], ids=["local", "centralised"])
def test_a_control_that_was_stopped_ends_at_the_same_bits(
    config: Config, federated: Setup, tmp_path: Path
) -> None:
    whole = run(config, tmp_path / "whole", setup=federated).folder
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "stopped", setup=federated, observer=StopsAfter(2))
    resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", whole)


def test_in_one_place_one_client_has_the_examples_of_all(federated: Setup) -> None:
    setup = prepare(CENTRAL, federated)
    assert setup.ground is federated.ground
    (together,) = setup.examples.train.values()
    by_client = federated.examples.train
    assert list(together) == [x for client in sorted(by_client) for x in by_client[client]]
    assert setup.roster.types == {EVERYBODY: EVERYBODY}
    assert setup.spec.highest == setup.spec.lowest == federated.spec.highest
    assert setup.afforded == federated.roster.ranks
    for part in ("validation", "own", "unseen"):
        assert getattr(setup.examples, part) == getattr(federated.examples, part)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "clients"), [(1, None, 2), (3, None, 4), (2, 1, 3), (1, 2, 1)]
)
def test_in_one_place_as_many_examples_are_seen_as_in_the_federation(
    epochs: int, max_steps: int | None, clients: int, federated: Setup
) -> None:
    schedule, train = federated.settings.schedule, federated.examples.train
    recipe = replace(schedule.recipe, epochs=epochs, max_steps=max_steps)
    made = pooled_schedule(replace(schedule, clients=clients, recipe=recipe), train)
    most = math.inf if max_steps is None else 2 * max_steps
    wanted = clients * sum(min(epochs * len(x), most) for x in train.values()) / len(train)
    assert made.clients == 1
    assert made.recipe.max_steps == max(1, round(wanted / 2))
    assert made.recipe.epochs * -(-sum(map(len, train.values())) // 2) >= made.recipe.max_steps


def test_in_one_place_the_run_scores_what_each_type_would_be_handed(
    federated: Setup, tmp_path: Path
) -> None:
    result = run(CENTRAL, tmp_path / "run", setup=federated)
    assert [row.state for row in result.rows] == ["base", "full", "high", "low"]
    described = Run.open(result.folder).data  # Its scores compare with those of other arms.
    assert described["encoding_fingerprint"] == federated.describe()["encoding_fingerprint"]
    types = federated.roster.types
    for row in result.rows:  # The examples stay their owners', wherever they are trained on.
        assert row.own is not None
        assert set(row.own_by_type()) == {types[x.client] for x in row.own.clients}
    (record, *_) = Run.open(result.folder).records()
    assert record.clients == (EVERYBODY,)
    assert load_adapter(result.folder, type=EVERYBODY).ranks == federated.spec.highest


@pytest.mark.parametrize(
    "config", [LOCAL, CENTRAL, small(clients={"level": "lowest"}, evaluation=QUICK)]
)
def test_a_control_goes_on_as_one_long_run_and_changes_no_mode(
    config: Config, federated: Setup, tmp_path: Path
) -> None:
    tables = config.document()
    longer = {"federation": {**tables["federation"], "rounds": 4}}
    long = parse_config({**tables, **longer})
    run(long, tmp_path / "long", setup=federated)
    run(config, tmp_path / "short", setup=federated)
    continue_run(tmp_path / "short", {"federation": {"rounds": 4}}, tmp_path / "more")
    ours, wanted = (Run.open(tmp_path / name).load_checkpoint("last") for name in ("more", "long"))
    assert ours is not None
    assert wanted is not None
    assert all(torch.equal(ours[0][name], x) for name, x in wanted[0].items())
    memories = [sorted((tmp_path / x).rglob("memory/*/000004*")) for x in ("more", "long")]
    assert bool(memories[0]) == (config is LOCAL)
    assert [x.read_bytes() for x in memories[0]] == [x.read_bytes() for x in memories[1]]
    other = {"federation": {"rounds": 5, "mode": "federated"}}
    if config.federation.mode != "federated":
        with pytest.raises(RunError, match=r"federation.mode is federated, not .* cannot change"):
            continue_run(tmp_path / "short", other, tmp_path / "odd")


def test_in_one_place_there_is_nobody_to_score() -> None:
    config = small(federation={"mode": "centralised"}, evaluation={"on_clients": "global"})
    with pytest.raises(ConfigError, match=r"federation.mode is 'centralised', but .* to 'off'"):
        prepare(config)


def test_alone_screens_and_the_rule_are_passed_over(federated: Setup) -> None:
    config = small(federation={"mode": "local"}, screens={"norm_clip": {}}, rule={"name": "fedit"})
    session = Session.of(config, federated)
    assert session.screens == ()
    assert session.rule.name == config.rule_name == "local"
    assert session.rule.ranks_for(federated.spec, federated.spec.highest) == federated.spec.highest


def test_alone_begins_where_a_federation_begins(federated: Setup) -> None:
    """The same initial adapters as under FlexLoRA, type by type."""
    alone, rule = Session.of(LOCAL).rule, Session.of(small()).rule
    for ranks in federated.roster.ranks.values():
        ours, theirs = (
            x.send(x.init(federated.spec, torch.Generator()), ranks, torch.Generator())
            for x in (alone, rule)
        )
        for name in ranks:
            assert torch.equal(ours[name].a, theirs[name].a)
            assert not ours[name].b.any()
