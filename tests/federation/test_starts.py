"""What a federation begins from: an adapter, a run's adapter, or a run that goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.adapters import About, Adapter, Factors
from flexlora.config.settings import rule_of
from flexlora.errors import AdapterError, ConfigError, RunError
from flexlora.federation import Session, Setup, continue_run, prepare, resume, run
from flexlora.federation.continuing import Parent
from flexlora.federation.scoring import score
from flexlora.federation.starts import Start, kind_of, warm_start
from flexlora.formats.fingerprint import fingerprint
from flexlora.formats.peft import load_peft, save_peft
from flexlora.rules import RULES, make_rule
from flexlora.runs import Result, load_adapter
from flexlora.runs.packed_state import pack
from flexlora.runs.readout import load_state
from flexlora.runs.run_directory import Run
from reference import assert_close, best, dense, gaussian, held_rank, one_of_each, product
from resealed import reseal
from small import small

NAMES = sorted(RULES)
# What a run goes on with is the state, which the contracts hold for every rule, and what stands
# beside it by these traits.
KINDS = one_of_each("delta", "sends", "memory", "mixed_ranks", "prunes")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(small())


@pytest.fixture(scope="module")
def adapter(setup: Setup) -> Adapter:
    """For every second layer, of ranks above what the clients train."""
    layers = {
        x.name: Factors(0.05 * gaussian(x.m, 6, seed=i), 0.05 * gaussian(6, x.n, seed=i + 50), 2.0)
        for i, x in enumerate(setup.model.layers[::2])
    }
    return Adapter(layers, "tiny")


@pytest.fixture(scope="module")
def peft(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "a"
    save_peft(adapter, folder)
    return folder


def begun(setup: Setup, name: str, path: Path, **model: Any) -> Start:
    model = {"init_from": str(path), **model}
    made = prepare(small(rule={"name": name}, model=model), setup)
    start = warm_start(made, make_rule(name))
    assert start is not None
    return start


def played(setup: Setup, folder: Path, name: str, rounds: int) -> Result:
    """Without a final evaluation."""
    tables: dict[str, dict[str, Any]] = {"evaluation": {"unseen": False}}
    tables |= {"federation": {"rounds": rounds}, "rule": {"name": name}}
    return run(small(**tables), folder, setup=setup)


def last(folder: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    return Run.open(folder).load_checkpoint() or pytest.fail("no checkpoint")


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert tensor.dtype == other[key].dtype
        assert torch.equal(tensor, other[key]), key


# --- from an adapter -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_begins_at_the_adapter_or_its_best_part(
    setup: Setup, adapter: Adapter, peft: Path, name: str
) -> None:
    start = begun(setup, name, peft)
    rule = make_rule(name)
    held = held_rank(rule, 2, 4, 6)
    for layer, matrix in rule.learned(start.state).items():
        if layer in adapter:
            assert_close(dense(matrix), best(product(adapter[layer]), held))
        else:
            assert matrix.norm() == 0.0
    assert start.state.round == 0
    assert start.state.delta.version == int(rule.traits.delta != "none")
    assert start.store.held == {}
    assert start.store.types == dict(setup.roster.types)


def test_the_parent_is_recorded(setup: Setup, peft: Path) -> None:
    parent = begun(setup, "flexlora", peft).parent
    print_of_it = parent.pop("fingerprint")
    origin = {"rule": None, "round": None, "commit": None, "start": 0}
    assert parent == {"path": str(peft), "kind": "adapter", **origin}
    again = begun(setup, "hetlora", peft).parent["fingerprint"]
    assert print_of_it == again
    assert len(print_of_it) == 64


def test_the_fingerprint_sees_the_scale(setup: Setup, adapter: Adapter, tmp_path: Path) -> None:
    found = set()
    for scale in (2.0, 3.0):
        layers = {n: Factors(f.b, f.a, scale) for n, f in adapter.items()}
        save_peft(Adapter(layers), tmp_path / f"{scale}")
        found.add(begun(setup, "flexlora", tmp_path / f"{scale}").parent["fingerprint"])
    assert len(found) == 2


@pytest.fixture(scope="module")
def from_peft(setup: Setup, peft: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    config = small(model={"init_from": str(peft)})
    return run(config, tmp_path_factory.mktemp("warm") / "r", setup=setup)


def test_the_start_is_kept_and_scored(setup: Setup, from_peft: Result, peft: Path) -> None:
    opened = Run.open(from_peft.folder)
    assert opened.checkpoints() == sorted({0, from_peft.scored_round, 2, 3})
    assert opened.parent == begun(setup, "flexlora", peft).parent
    assert [row.state for row in from_peft.rows] == ["base", "start", "full", "high", "low"]
    assert [row["state"] for row in (opened.read_results() or {})["rows"]][1] == "start"
    wanted = {name: f.product() for name, f in load_peft(peft).items()}
    scores, own = score(setup, wanted)
    assert own is not None
    row = from_peft.row("start")
    assert row.unseen.mean()["loss"] == pytest.approx(scores.mean()["loss"], rel=1e-5)
    assert row.own is not None
    assert row.own.mean()["loss"] == pytest.approx(own.mean()["loss"], rel=1e-5)
    assert row.unseen.mean()["loss"] != from_peft.row("base").unseen.mean()["loss"]


def test_a_resume_needs_the_parent_no_more(from_peft: Result, tmp_path: Path) -> None:
    """Back to the moment of creation; the adapter is gone."""
    folder = Path(shutil.copytree(from_peft.folder, tmp_path / "r"))
    for round in Run.open(folder).checkpoints()[1:]:
        shutil.rmtree(folder / "checkpoints" / f"round-{round:04d}")
    (folder / "results.json").unlink()
    for log in folder.glob("*.jsonl"):
        log.write_text("")
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("init_from = ", 'init_from = "/gone" # '))
    reseal(folder)
    again = resume(folder)
    assert_same_bits(last(folder)[0], last(from_peft.folder)[0])
    for one, other in zip(again.rows, from_peft.rows, strict=True):
        assert one.unseen.to_json() == other.unseen.to_json()


def test_a_run_that_lost_its_start_does_not_begin_at_the_base(
    from_peft: Result, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(from_peft.folder, tmp_path / "r"))
    for checkpoint in (folder / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    with pytest.raises(RunError, match="checkpoints is missing or damaged; restore it"):
        resume(folder)


def test_the_bare_base_is_no_start(setup: Setup) -> None:
    assert warm_start(setup, make_rule("flexlora")) is None
    with pytest.raises(ConfigError, match=r"init_force is true but model.init_from is not set"):
        warm_start(prepare(small(model={"init_force": True}), setup), make_rule("flexlora"))


def test_an_adapter_of_another_base_needs_force(
    setup: Setup, adapter: Adapter, tmp_path: Path
) -> None:
    save_peft(adapter, tmp_path / "name", base_model="org/huge")
    marked = Adapter(dict(adapter), About("tiny", "float32:" + "0" * 64))
    save_peft(marked, tmp_path / "weights")
    for folder, words in (
        ("name", r"made for org/huge, not for tiny; set model.name .* or model.init_force to true"),
        ("weights", r"made for tiny with weights 0{12}, not for tiny with weights [0-9a-f]{12};"),
    ):
        with pytest.raises(AdapterError, match=words):
            begun(setup, "flexlora", tmp_path / folder)
        begun(setup, "flexlora", tmp_path / folder, init_force=True)


def test_layers_must_fit_in_any_case(setup: Setup, adapter: Adapter, tmp_path: Path) -> None:
    name, factors = next(iter(adapter.items()))
    small_one = Factors(torch.zeros(3, 1), torch.ones(1, 5), 1.0)
    for i, (layers, words) in enumerate(
        (
            ({name: small_one}, f"{name} of the start is 3 × 5, expected"),
            ({"y.z": small_one, name: factors}, r"not adapted: y\.z; add them to model.targets"),
        )
    ):
        save_peft(Adapter(layers), tmp_path / f"{i}")
        with pytest.raises(AdapterError, match=f"init_from = .*{words}"):
            begun(setup, "flexlora", tmp_path / f"{i}", init_force=True)


# --- from a run's adapter ------------------------------------------------------------------------


def test_a_run_gives_all_of_its_best_round(setup: Setup, from_peft: Result) -> None:
    opened = Run.open(from_peft.folder)
    state = load_state(opened, "best")
    start = begun(setup, "flora", from_peft.folder)
    wanted = make_rule("flexlora").learned(state)
    for name, matrix in make_rule("flora").learned(start.state).items():
        assert_close(dense(matrix), dense(wanted[name]))
    assert start.parent == {
        "path": str(from_peft.folder),
        "kind": "run",
        "rule": "flexlora",
        "round": from_peft.scored_round,
        "commit": opened.environment["commit"],
        "fingerprint": fingerprint(pack(state)[0].items()),
        "start": 0,
    }


def test_a_folder_of_neither_kind_is_said(tmp_path: Path, peft: Path, from_peft: Result) -> None:
    assert (kind_of(peft), kind_of(str(from_peft.folder))) == ("adapter", "run")
    with pytest.raises(AdapterError, match="is neither an adapter nor a run; give a PEFT folder"):
        kind_of(tmp_path)
    with pytest.raises(AdapterError, match="gone does not exist; give"):
        kind_of(tmp_path / "gone")


def test_adapters_of_a_run_know_their_base(setup: Setup, from_peft: Result) -> None:
    handed = load_adapter(from_peft.folder, 2)
    assert handed.base == "tiny"
    assert handed.base_fingerprint == f"float32:{setup.ground.fingerprint}"
    assert not handed.about.fan_in_fan_out


# --- going on with a run -------------------------------------------------------------------------


def gone_on(
    setup: Setup, parent: Path, folder: Path, round: int | str = "last", **tables: Any
) -> Result:
    """`continue_run`, on the setup that is there."""
    return Session.continuing(parent, tables, round=round, like=setup).play(folder)


@pytest.mark.parametrize("name", KINDS)
def test_more_rounds_end_at_the_bits_of_one_long_run(
    setup: Setup, tmp_path: Path, name: str
) -> None:
    played(setup, tmp_path / "long", name, 3)
    played(setup, tmp_path / "short", name, 2)
    before = {p: p.read_bytes() for p in (tmp_path / "short").rglob("*") if p.is_file()}
    result = gone_on(setup, tmp_path / "short", tmp_path / "more", federation={"rounds": 3})
    (tensors, meta), (wanted, wanted_meta) = last(tmp_path / "more"), last(tmp_path / "long")
    assert_same_bits(tensors, wanted)
    assert (meta["state"], meta["store"]) == (wanted_meta["state"], wanted_meta["store"])
    records = Run.open(tmp_path / "more").read_metrics()
    long = Run.open(tmp_path / "long").read_metrics()[2:]
    assert [record["round"] for record in records] == [3]
    for key in ("clients", "train_loss", "bytes_up", "bytes_down", "validation"):
        assert [record[key] for record in records] == [record[key] for record in long], key
    assert result.rounds == 1
    parent = Run.open(tmp_path / "more").parent or {}
    assert (parent["kind"], parent["rule"], parent["round"], parent["start"]) == ("run", name, 2, 2)
    assert before == {p: p.read_bytes() for p in (tmp_path / "short").rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def parent(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(setup, tmp_path_factory.mktemp("parent") / "p", "flexlora-increment", 2).folder


def test_the_best_round_and_patience_begin_anew(setup: Setup, parent: Path, tmp_path: Path) -> None:
    opened = Parent.open(parent)
    _, meta = opened.start(*started(setup, opened, {"federation": {"rounds": 3}})).checkpoint()
    assert meta["progress"] == {"best": None, "best_round": 0, "stale": 0}
    result = gone_on(setup, parent, tmp_path / "r", federation={"rounds": 3})
    assert result.scored_round == 3
    assert Run.open(tmp_path / "r").checkpoints() == [2, 3]


def started(setup: Setup, opened: Parent, tables: Any) -> tuple[Setup, Any]:
    made = prepare(opened.config_with(tables), setup)
    return made, rule_of(made.config.rule)


def rostered(setup: Setup, **changes: Any) -> Setup:
    """With other types or ranks."""
    return replace(setup, roster=replace(setup.roster, **changes))


def test_a_continued_run_is_resumed_and_continued(
    setup: Setup, parent: Path, tmp_path: Path
) -> None:
    played(setup, tmp_path / "long", "flexlora-increment", 5)
    continue_run(parent, {"federation": {"rounds": 3}}, tmp_path / "a")
    continue_run(tmp_path / "a", {"federation": {"rounds": 5}}, tmp_path / "b")
    assert_same_bits(last(tmp_path / "b")[0], last(tmp_path / "long")[0])
    shutil.rmtree(tmp_path / "a")
    for number in (4, 5):
        shutil.rmtree(tmp_path / "b" / "checkpoints" / f"round-{number:04d}", ignore_errors=True)
    resume(tmp_path / "b")
    assert_same_bits(last(tmp_path / "b")[0], last(tmp_path / "long")[0])
    assert [r["round"] for r in Run.open(tmp_path / "b").read_metrics()] == [4, 5]


def test_the_public_door_gives_the_same(parent: Path, setup: Setup, tmp_path: Path) -> None:
    """It prepares model and data anew, with the parent's threads."""
    wanted = gone_on(setup, parent, tmp_path / "a", federation={"rounds": 3})
    got = continue_run(parent, {"federation": {"rounds": 3}}, tmp_path / "b")
    assert got.folder == tmp_path / "b"
    assert_same_bits(last(got.folder)[0], last(wanted.folder)[0])


def test_the_config_is_the_parents_with_the_changes(from_peft: Result) -> None:
    opened = Parent.open(from_peft.folder)
    changed = opened.config_with(
        {"federation": {"rounds": 9}, "training": {"learning_rate": 0.5}}, ["training.host=fedavg"]
    )
    wanted = small(federation={"rounds": 9}, training={"learning_rate": 0.5, "host": "fedavg"})
    assert changed == wanted
    assert opened.run.config.model.init_from is not None
    assert changed.model.init_from is None
    assert opened.threads == 1


def test_other_ranks_and_clients(setup: Setup, parent: Path) -> None:
    """The mix becomes one type of a higher rank for one client; one client is new, one is gone."""
    opened = Parent.open(parent)
    old = opened.store
    stays, goes, *_ = sorted(old.held)
    for of_old in (old.failed, old.resting):
        of_old |= {stays: 7, goes: 8}
    types = {client: "high" for client in setup.roster.types if client != goes} | {"new": "low"}
    made, rule = started(setup, opened, {"federation": {"rounds": 3}})
    start = opened.start(rostered(made, types=types), rule)
    assert set(start.store.ranks) == set(types)
    assert start.store.ranks["new"] == setup.roster.ranks["low"]
    assert all(start.store.ranks[c] == setup.roster.ranks["high"] for c in types if c != "new")
    assert start.store.held == {c: v for c, v in old.held.items() if c != goes}
    assert stays in start.store.held
    assert start.store.failed == start.store.resting == {stays: 7}
    assert_same_bits(pack(start.state)[0], pack(opened.state)[0])


def test_pruned_ranks_are_kept_unless_the_types_ranks_changed(setup: Setup, tmp_path: Path) -> None:
    opened = Parent.open(played(setup, tmp_path / "r", "hetlora", 1).folder)
    client = next(c for c, kind in setup.roster.types.items() if kind == "high")
    pruned = dict.fromkeys(setup.roster.ranks["high"], 3)
    opened.store.ranks[client] = pruned
    tables = {"federation": {"rounds": 3}}
    assert opened.start(*started(setup, opened, tables)).store.ranks[client] == pruned
    made, rule = started(setup, opened, tables)
    ranks = {**setup.roster.ranks, "high": dict.fromkeys(pruned, 5)}
    start = opened.start(rostered(made, ranks=ranks), rule)
    assert start.store.ranks[client] == dict.fromkeys(pruned, 5)
    assert start.state.spec.highest == dict.fromkeys(pruned, 5)


@pytest.mark.parametrize("name", KINDS)
def test_other_bounds_of_the_ranks_keep_what_was_learned(
    setup: Setup, tmp_path: Path, name: str
) -> None:
    """Where the highest or lowest rank changes, the state is made anew and Δ is sent whole."""
    opened = Parent.open(played(setup, tmp_path / "r", name, 2).folder)
    ranks = {
        "low": dict.fromkeys(setup.roster.ranks["low"], 3),
        "high": dict.fromkeys(setup.roster.ranks["low"], 7),
    }
    tables = {"federation": {"rounds": 3}}
    made, rule = started(setup, opened, tables)
    made = rostered(made, ranks=ranks)
    start = opened.start(made, rule)
    before = rule.learned(opened.state)
    for layer, matrix in rule.learned(start.state).items():
        assert_close(dense(matrix), dense(before[layer]))
    for held in {opened.state.delta.version, *start.store.held.values()}:
        update = start.state.delta.since(held)
        if rule.traits.delta == "none":
            assert update is None
        else:
            assert update is not None
            assert (update.start, update.layers) == (None, start.state.delta.layers)
    for kind in ranks.values():
        asked = rule.ranks_for(made.spec, kind)
        assert rule.send(start.state, asked, torch.Generator()).ranks == asked
    types = {"types": {"low": 3, "high": 7}}
    session = Session.continuing(opened.run.folder, {**tables, "clients": types}, like=setup)
    assert session.play(tmp_path / "more").rounds == 1


@pytest.mark.parametrize("name", ["flexlora", "flexlora-increment"])
def test_another_lowest_rank_moves_the_anchor_and_not_what_was_learned(
    setup: Setup, tmp_path: Path, name: str
) -> None:
    tables: dict[str, dict[str, Any]] = {"rule": {"name": name}, "evaluation": {"unseen": False}}
    tables |= {"training": {"scaling": "anchored"}, "federation": {"rounds": 1}}
    opened = Parent.open(run(small(**tables), tmp_path / "r", setup=setup).folder)
    assert [opened.state.spec.scale(rank) for rank in (2, 4)] == [8.0, 16 / 8**0.5]
    more = {"federation": {"rounds": 2}, "clients": {"types": {"low": 1, "high": 4}}}
    start = opened.start(*started(setup, opened, more))
    rule = make_rule(name)
    assert [start.state.spec.scale(rank) for rank in (1, 4)] == [16.0, 8.0]
    before = rule.learned(opened.state)
    for layer, matrix in rule.learned(start.state).items():
        assert_close(dense(matrix), dense(before[layer]))
    sent = rule.send(start.state, dict.fromkeys(before, 4), torch.Generator())
    assert {factors.scale for factors in sent.values()} == {8.0}


def test_other_options_of_the_rule_keep_what_was_learned(setup: Setup, parent: Path) -> None:
    opened = Parent.open(parent)
    tables = {"federation": {"rounds": 3}, "rule": {"frozen_rank": 4}}
    made, rule = started(setup, opened, tables)
    start = opened.start(made, rule)
    before = rule.learned(opened.state)
    for layer, frozen in start.state.delta.layers.items():
        assert_close(dense(frozen), best(dense(before[layer]), 4), 1e-4)
    assert start.state.delta.version == opened.state.delta.version + 1


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rule": {"name": "flora"}}, RunError, "rule.name is flora, not flexlora-increment as in"),
    ({"training": {"alpha": 8.0}}, RunError, r"training.alpha is 8\.0, not 16\.0 as in"),
    ({"training": {"scaling": "rslora"}}, RunError, "training.scaling is rslora, not lora"),
    (
        {"federation": {"rounds": 2}},
        ConfigError,
        "rounds is 2, but .* is at round 2 already; raise",
    ),
    ({"model": {"init_from": "x"}}, ConfigError, "init_from is x, but a continued run begins from"),
    ({"model": {"init_force": True}}, ConfigError, "init_force is true, but a continued run"),
]


@pytest.mark.parametrize(("tables", "kind", "words"), REFUSED, ids=lambda x: str(x)[:30])
def test_what_a_continued_run_cannot_change(
    setup: Setup, parent: Path, tables: dict[str, Any], kind: type[Exception], words: str
) -> None:
    opened = Parent.open(parent)
    with pytest.raises(kind, match=words) as caught:
        opened.start(*started(setup, opened, {"federation": {"rounds": 3}, **tables}))
    if kind is RunError:
        assert f'start a new run with model.init_from = "{parent}"' in str(caught.value)


def test_another_base_and_other_layers_are_refused(setup: Setup, parent: Path) -> None:
    opened = Parent.open(parent)
    tables = {"federation": {"rounds": 3}}
    made, rule = started(setup, opened, tables)
    other = replace(made, ground=replace(made.ground, fingerprint="f" * 64))
    with pytest.raises(RunError, match=r"the base model tiny is not that of .*model\.init_from"):
        opened.start(other, rule)
    fewer = started(setup, opened, {**tables, "model": {"targets": ["q_proj"]}})
    with pytest.raises(RunError, match=r"the adapted layers are not those of .*model\.init_from"):
        opened.start(*fewer)


def test_a_damaged_parent_is_said(parent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parent, tmp_path / "p"))
    meta = next((folder / "checkpoints").glob("*/meta.json"))
    meta.write_text(json.dumps({"best": None, "meta": {"state": {}}}))
    reseal(folder)
    with pytest.raises(RunError, match="missing or damaged"):
        Parent.open(folder)


def test_a_parent_that_does_not_say_its_base_is_no_match(
    setup: Setup, parent: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(parent, tmp_path / "p"))
    (folder / "data.json").write_text("{}")
    reseal(folder)
    opened = Parent.open(folder)
    with pytest.raises(RunError, match=r"data\.json is missing or damaged"):
        opened.start(*started(setup, opened, {"federation": {"rounds": 3}}))
