"""A whole run: the same bits twice, the same bits after any stop, and what it hands out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import flexlora
from flexlora.errors import ConfigError, DataError, RankError, RunError
from flexlora.federation import Session, Setup, continue_run, prepare, resume, run, score_model
from flexlora.federation.scoring import validate
from flexlora.formats.peft import load_peft, save_peft
from flexlora.models import AdaptedModel, load_model
from flexlora.rules import RULES, make_rule
from flexlora.runs import Result, load_adapter
from flexlora.runs.overview import overview
from flexlora.runs.readout import load_state
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from reference import assert_close, dense, product
from resealed import reseal
from same_run import assert_same_run
from small import round_record, small, write
from warm import Warm

TINY_FOLDER = Path(flexlora.__file__).parent / "models" / "tiny"

RULE = "flexlora-increment"
# One checkpoint beside the best: so one is removed in so few rounds.
CONFIG = small(rule={"name": RULE}, run={"checkpoints": 1})


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(CONFIG)


@pytest.fixture(scope="module")
def folder(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run."""
    return run(CONFIG, tmp_path_factory.mktemp("runs") / "whole", setup=setup).folder


# --- one config, one result ----------------------------------------------------------------------


def test_scoring_speaks_of_its_arguments_and_not_of_the_command_line() -> None:
    few = small(data={"unseen_tasks": 2}, evaluation={"metrics": ["loss"]})
    with pytest.raises(DataError, match=r"^tasks is 3, but there are 2 test tasks; give 1 to 2$"):
        score_model(few, tasks=3)


def test_two_runs_of_one_config_are_identical(folder: Path, tmp_path: Path) -> None:
    """Not even the model and the data are shared."""
    assert_same_run(run(CONFIG, tmp_path / "again").folder, folder)


def test_the_base_row_is_the_pristine_model(folder: Path) -> None:
    rows = Run.open(folder).read_results() or {}
    base = next(row for row in rows["rows"] if row["state"] == "base")
    assert base["unseen"]["mean"] == score_model(CONFIG).mean().to_json()


SHARED: list[tuple[dict[str, Any], bool, bool]] = [
    ({"rule": {"name": "flora"}}, True, True),
    ({"training": {"learning_rate": 0.5}}, True, True),
    ({"clients": {"types": {"low": 1, "high": 3}}}, True, True),
    ({"federation": {"seed": 1}}, True, False),
    ({"data": {"examples_per_task": 7}}, True, False),
    ({"model": {"targets": ["q_proj"]}}, False, True),
    ({"evaluation": {"own_examples": 1}}, True, False),
]


@pytest.mark.parametrize(("tables", "model", "examples"), SHARED, ids=lambda x: str(x)[:40])
def test_what_another_config_says_the_same_of_is_not_made_anew(
    setup: Setup, tables: dict[str, Any], model: bool, examples: bool
) -> None:
    config = small(**{**tables, "rule": tables.get("rule", {"name": RULE})})
    made = prepare(config, setup)
    assert made.config == config
    assert (made.model is setup.model) == model
    assert (made.examples is setup.examples) == examples
    assert (made.ground is setup.ground) == (model and examples)
    alone = prepare(config)
    assert made.settings == alone.settings
    assert made.spec == alone.spec
    assert made.describe() == alone.describe()
    assert made.roster.types == alone.roster.types


def test_a_run_on_a_setup_of_another_config_is_that_of_its_own(
    setup: Setup, tmp_path: Path
) -> None:
    config = small(rule={"name": RULE}, training={"learning_rate": 0.02}, federation={"rounds": 2})
    shared = run(config, tmp_path / "shared", setup=setup)
    assert_same_run(shared.folder, run(config, tmp_path / "alone").folder)


def test_nothing_scored_where_unseen_examples_are_kept_for_later(
    setup: Setup, tmp_path: Path
) -> None:
    config = small(evaluation={"unseen": False})
    result = run(config, tmp_path / "r", setup=setup)
    assert result.rows == ()
    assert result.rounds == 3


# --- what is found out before anything is written ------------------------------------------------

TOO_LITTLE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"data": {"examples_per_task": 1}}, DataError, "no validation examples, but evaluation.every"),
    (
        {"data": {"max_tokens": 8, "skip_too_long": True}},
        DataError,
        "training clients of source embedded hold no example that fits 8 tokens",
    ),
    ({"federation": {"clients_per_round": 5}}, ConfigError, "is 5 but there are 4 clients"),
    ({"data": {"max_tokens": 513}}, ConfigError, "max_tokens is 513 but tiny has a context of 512"),
    ({"clients": {"types": {"low": 2, "high": 129}, "strict": True}}, RankError, "above min"),
    ({"rule": {"name": "flexlorra"}}, ConfigError, "did you mean 'flexlora'"),
    (
        {"data": {"examples_per_task": 1}},
        DataError,
        "validation examples, but evaluation.every is 1; give each client more examples, or",
    ),
    (
        {"data": {"examples_per_task": 1}, "evaluation": {"validation_clients": 1}},
        DataError,
        "that train hold no validation examples, but evaluation.on_clients is 'tuned'; give each",
    ),
    (
        {"data": {"train_tasks": 0}},
        DataError,
        "no client to train: the data has no training examples; give some",
    ),
]


@pytest.mark.parametrize(("tables", "kind", "message"), TOO_LITTLE, ids=lambda x: str(x)[:40])
def test_what_cannot_run_is_said_before_anything_is_written(
    tmp_path: Path, tables: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(small(**tables), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_without_validation_few_examples_are_enough() -> None:
    made = prepare(
        small(data={"examples_per_task": 1}, evaluation={"every": 0, "on_clients": "off"})
    )
    assert made.examples.validation == ()


# --- resume --------------------------------------------------------------------------------------

# Runs the command line in a process that kills itself, at the given moment, as a machine would.
KILLED = """
import importlib, json, os, signal, sys

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def on_call(owner, name, count, after):
    module, _, kind = owner.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, kind) if kind else owner
    original = getattr(owner, name)
    calls = []
    def wrapped(*args, **options):
        calls.append(1)
        if len(calls) == count and not after:
            die()
        result = original(*args, **options)
        if len(calls) == count:
            die()
        return result
    setattr(owner, name, wrapped)

on_call(*json.loads(sys.argv.pop(1)))
importlib.import_module("flexlora.cli.main").main()
"""
# Moment → what is called then, in which module (and class), for the how many-th time, whether the
# kill comes after it; and the last checkpoint that is there then.
LOOP, RUN = "flexlora.federation.loop", "flexlora.runs.run_directory:Run"
CHECKPOINTS = "flexlora.runs.checkpoints"
MOMENTS: dict[str, tuple[tuple[str, str, int, bool], int]] = {
    "before the first round": ((f"{LOOP}:Federation", "play", 1, False), 0),
    "right after the line of round 1": ((RUN, "append_metrics", 1, True), 0),
    "after a client of round 2": (
        ("flexlora.engines.in_process:InProcess", "_reply", 3, True),
        1,
    ),
    "while combining round 2": (
        ("flexlora.federation.collector:Plain", "contributions", 10, True),
        1,
    ),
    "right after the line of round 2": ((RUN, "append_metrics", 2, True), 1),
    "before round 2 gets its name": ((CHECKPOINTS, "save_tensors", 2, True), 1),
    "before round 1 is removed": ((CHECKPOINTS, "remove_folder", 1, False), 2),
    "while scoring": (("flexlora.federation.scoring", "score", 2, True), 3),
    "before the results": ((RUN, "write_results", 1, False), 3),
}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_after_a_kill_ends_at_the_same_bits(
    folder: Path, tmp_path: Path, warm: Warm, moment: str
) -> None:
    config = write(CONFIG, tmp_path / "c.toml")
    (tmp_path / "killed.py").write_text(KILLED)
    called, stands = MOMENTS[moment]
    command = ["python", str(tmp_path / "killed.py"), json.dumps(called), "run", str(config)]
    around = {**environment(), **warm.environment}
    killed = subprocess.run(
        [*command, "--out", str(tmp_path / "r")], env=around, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stopped = Run.open(tmp_path / "r")
    assert stopped.read_results() is None
    assert max(stopped.checkpoints(), default=0) == stands
    assert overview(tmp_path / "r")["state"] == ("stopped" if stands < 3 else "not scored")
    assert Standing.of(stopped).last == stands
    result = resume(tmp_path / "r")
    assert_same_run(tmp_path / "r", folder)
    assert result.folder == tmp_path / "r"
    hidden = [path.name for path in tmp_path.rglob("*.tmp")]
    assert hidden == []
    assert not (tmp_path / "r" / "next").exists()
    assert not (tmp_path / "r" / "spool").exists()


def test_a_kill_while_a_checkpoint_is_removed_leaves_no_half_of_it(tmp_path: Path) -> None:
    code = """
import os, shutil, signal, sys
from pathlib import Path
from flexlora.formats.atomic import remove_folder

def half(path, **_):
    next(Path(path).iterdir()).unlink()
    os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = half
remove_folder(Path(sys.argv[1]))
"""
    run = Run.create(CONFIG, tmp_path / "r")
    for round in (1, 2):
        run.append_metrics(round_record(round))
        run.write_checkpoint(round, {}, {}, best=1)
    gone = run.folder / "checkpoints" / "round-0001"
    killed = subprocess.run([sys.executable, "-c", code, str(gone)], env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert run.checkpoints() == [2]
    assert len(list(run.folder.rglob("*.tmp"))) == 1
    with run.locked():
        assert list(run.folder.rglob("*.tmp")) == []


def test_resume_after_a_blind_kill_by_the_command_line(folder: Path, tmp_path: Path) -> None:
    """Killed from outside in the middle of a round, resumed by another process."""
    config = write(CONFIG, tmp_path / "c.toml")
    flexlora = [sys.executable, "-c", "from flexlora.cli.main import main; main()"]
    command = [*flexlora, "run", str(config), "--out", str(tmp_path / "r")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not list((tmp_path / "r" / "spool").glob("*.safetensors")):
            assert time.monotonic() < end, "the run never came to a round"
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert Run.open(tmp_path / "r").read_results() is None
    done = subprocess.run(
        [*flexlora, "resume", str(tmp_path / "r")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "run directory" in done.stdout
    assert_same_run(tmp_path / "r", folder)


def copy(folder: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, target))


def test_resume_of_a_finished_run_changes_nothing(folder: Path, tmp_path: Path) -> None:
    again = copy(folder, tmp_path / "r")
    before = (again / "results.json").read_bytes()
    result = resume(again)
    assert_same_run(again, folder)
    assert (again / "results.json").read_bytes() == before
    assert [row.state for row in result.rows] == ["base", "full", "high", "low"]


@pytest.mark.parametrize(
    ("key", "thing"),
    [
        ("fingerprint", "data"),
        ("model_fingerprint", "base model"),
        ("encoding_fingerprint", "tokenizer, prompt or partition"),
    ],
)
def test_resume_refuses_what_has_changed(
    folder: Path, tmp_path: Path, key: str, thing: str
) -> None:
    again = copy(folder, tmp_path / "r")
    data = json.loads((again / "data.json").read_text())
    (again / "data.json").write_text(json.dumps({**data, key: "f" * 64}))
    reseal(again)
    with pytest.raises(RunError, match=rf"the {thing} of .* has changed since the run began"):
        resume(again)


@pytest.mark.parametrize("name", ["resolved.toml", "data.json", "checkpoints/*/meta.json"])
def test_damaged_files_of_a_run_are_said(folder: Path, tmp_path: Path, name: str) -> None:
    again = copy(folder, tmp_path / "r")
    for file in again.glob(name):
        file.write_text("" if name.endswith("toml") else '{"meta": {}}')
    with pytest.raises(RunError, match=r"is damaged: it is not as it was written .* restore it"):
        resume(again)
    reseal(again)
    with pytest.raises(RunError, match=r"is missing or damaged.*; restore it"):
        resume(again)


def test_a_run_that_goes_on_does_so_where_it_is(folder: Path, tmp_path: Path) -> None:
    session = Session.resuming(copy(folder, tmp_path / "r"))
    with pytest.raises(ConfigError, match=r"r goes on where it is, not in .*elsewhere; leave that"):
        session.play(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_preview_of_a_run_that_goes_on_knows_its_parent_and_device(
    folder: Path, tmp_path: Path
) -> None:
    more = continue_run(folder, {"federation": {"rounds": 4}}, tmp_path / "more").folder
    text = (more / "config.toml").read_text()
    (more / "config.toml").write_text(text.replace('device = "cpu"', 'device = "cuda:77"'))
    reseal(more)
    preview = Session.resuming(more).preview()
    assert preview.parent == Run.open(more).parent
    assert preview.parent is not None
    assert str(preview.setup.model.device) == "cpu"


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run: it has no config\.toml"):
        resume(tmp_path)


def test_a_run_in_use_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    again = copy(folder, tmp_path / "r")
    with Run.open(again).locked(), pytest.raises(RunError, match="in use by another process"):
        resume(again)


# --- what a run hands out ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(RULES))
def of_rule(request: pytest.FixtureRequest, setup: Setup, tmp_path_factory: Any) -> Result:
    """The shortest run in which a rule goes on from a round of its own; on a setup that others
    used."""
    config = small(rule={"name": request.param}, federation={"rounds": 2})
    made = replace(setup, config=config)
    return run(config, tmp_path_factory.mktemp("rule") / request.param, setup=made)


def test_every_rule_learns(setup: Setup, of_rule: Result) -> None:
    traits = RULES[of_rule.rule].traits
    states = ["base", "full"] + (["high", "low"] if traits.mixed_ranks else [])
    assert [row.state for row in of_rule.rows] == states
    assert of_rule.rounds == 2
    records = Run.open(of_rule.folder).read_metrics()
    assert of_rule.bytes_up == sum(record["bytes_up"] for record in records) > 0
    assert of_rule.bytes_down == sum(
        record["bytes_down"] + record["on_clients"]["bytes_down"] for record in records
    )
    assert all(record["on_clients"]["bytes_down"] > 0 for record in records)
    base = validate(setup, {})
    assert base is not None
    losses = [record["validation"]["loss"] for record in records]
    unseen = [of_rule.row(state).unseen.mean()["loss"] for state in ("base", "full")]
    assert min(losses) < base.mean()["loss"]
    if traits.learned == "clients":  # They are scored with what they keep; nobody else has any.
        assert unseen[1] == pytest.approx(unseen[0])
        first, last = (r["on_clients"]["global"]["metrics"]["loss"]["mean"] for r in records)
        assert last < first
    else:
        assert unseen[1] != unseen[0]
    with pytest.raises(KeyError):
        of_rule.row("medium")


def test_at_full_rank_nothing_is_lost(of_rule: Result) -> None:
    opened = Run.open(of_rule.folder)
    learned = make_rule(of_rule.rule).learned(load_state(opened))
    adapter = load_adapter(of_rule.folder, "full")
    assert set(adapter) == set(learned)
    assert adapter.base == "tiny"
    for name, factors in adapter.items():
        assert_close(product(factors), dense(learned[name]), 1e-5)
        assert (float(product(factors).norm()) > 0.0) == (not RULES[of_rule.rule].traits.memory)


def test_a_round_records_what_its_rule_cut_off(of_rule: Result) -> None:
    opened = Run.open(of_rule.folder)
    record = opened.read_metrics()[-1]
    if "cut" not in record:  # `test_a_rule_that_cuts_nothing_records_no_cut` says whose that is.
        return
    learned = make_rule(of_rule.rule).learned(load_state(opened)).values()
    norm = sum(float(matrix.norm()) ** 2 for matrix in learned) ** 0.5
    assert record["cut"].keys() == {"error", "certificates"}
    # Two clients: at most twice the rank that is kept, and the lesser half of it goes.
    assert 0.0 <= record["cut"]["error"] < norm
    assert record["cut"]["error"] > 0.0 or of_rule.rule != "flexlora"
    assert record["cut"]["certificates"] == {"exact": len(learned)}


def test_any_rank_is_handed_out_and_wrong_ones_are_said(of_rule: Result) -> None:
    for rank in (1, 3, "3", 128):
        assert set(load_adapter(of_rule.folder, rank).ranks.values()) == {int(rank)}
    for rank in (0, -2):
        with pytest.raises(RankError, match=f"rank {rank} .*below 1"):
            load_adapter(of_rule.folder, rank)
    with pytest.raises(RankError, match=r"rank 129 .* above min\(m, n\) = 128; lower"):
        load_adapter(of_rule.folder, 129)
    with pytest.raises(RankError, match=r"rank 'x' is no whole number; give 1 or more, or 'full'"):
        load_adapter(of_rule.folder, "x")


def test_ranks_by_pattern_and_by_type_are_handed_out(of_rule: Result) -> None:
    asked = load_adapter(of_rule.folder, {"attention": 2, "all": 3})
    assert set(asked.ranks.values()) == {2, 3}
    one_rank = not RULES[of_rule.rule].traits.mixed_ranks
    for kind, rank in {"low": 2, "high": 4}.items():
        found = load_adapter(of_rule.folder, type=kind)
        assert set(found.ranks.values()) == {2 if one_rank else rank}
    with pytest.raises(ConfigError, match="has no clients of type 'hihg'; did you mean 'high'"):
        load_adapter(of_rule.folder, type="hihg")
    with pytest.raises(ConfigError, match="type is given beside rank or energy"):
        load_adapter(of_rule.folder, 2, type="high")


def test_an_export_by_energy_has_the_lowest_ranks_that_keep_it(of_rule: Result) -> None:
    whole = load_adapter(of_rule.folder, "full")
    kept = load_adapter(of_rule.folder, energy=0.9)
    for name, factors in kept.items():
        dense = whole[name].product().dense().double()
        energies = torch.linalg.svdvals(dense).square()
        if not bool(energies.any()):  # What was learned is at the clients.
            assert RULES[of_rule.rule].traits.memory
            assert factors.rank == 1
            continue
        shares = energies.cumsum(0) / energies.sum()
        wanted = int((shares < 0.9 - 1e-6).sum()) + 1
        assert factors.rank == wanted, name
        rest = dense - factors.product().dense().double()
        assert float(rest.square().sum() / energies.sum()) == pytest.approx(
            1.0 - float(shares[wanted - 1]), abs=1e-5
        )
    with pytest.raises(ConfigError, match="give just one of rank and energy"):
        load_adapter(of_rule.folder)
    with pytest.raises(ConfigError, match="give just one of rank and energy"):
        load_adapter(of_rule.folder, 2, energy=0.9)
    with pytest.raises(ConfigError, match=r"energy is 1\.5; give a share above 0"):
        load_adapter(of_rule.folder, energy=1.5)


def test_rounds_that_are_kept_and_that_are_not(folder: Path, tmp_path: Path) -> None:
    kept = Run.open(folder).checkpoints()
    best = load_adapter(folder, 2, kept[0])
    for round in ("best", "last"):
        assert set(load_adapter(folder, 2, round)) == set(best)
    with pytest.raises(RunError, match=r"no checkpoint of round 1; it keeps those of .*3"):
        load_adapter(folder, 2, 1)
    empty = Run.create(CONFIG, tmp_path / "r")
    with pytest.raises(RunError, match="has no checkpoint yet; go on with"):
        load_adapter(empty.folder, 2)


def text_batch() -> dict[str, torch.Tensor]:
    tokens = load_model("tiny").tokenizer(["Say: one, two, three.", "A list of words: a b c d"])
    width = min(map(len, tokens["input_ids"]))
    return {"input_ids": torch.tensor([row[:width] for row in tokens["input_ids"]])}


@pytest.mark.parametrize("rank", [3, "full"])
def test_the_export_computes_in_peft_what_our_model_computes(
    folder: Path, tmp_path: Path, rank: int | str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = load_adapter(folder, rank)
    save_peft(adapter, tmp_path / "a")
    base = AutoModelForCausalLM.from_pretrained(TINY_FOLDER, dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, tmp_path / "a").eval()
    ours = AdaptedModel(load_model("tiny"), tuple(adapter))
    batch = text_batch()
    with torch.no_grad():
        pristine = ours(**batch).logits
        ours.set_delta({name: factors.product() for name, factors in adapter.items()})
        wanted = peft(**batch).logits
        got = ours(**batch).logits
    assert (wanted - pristine).abs().max() > 1e-2, "the adapter changes nothing"
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_export_reads_back_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    adapter = load_adapter(folder, 3)
    save_peft(adapter, tmp_path / "a", compact=True)
    back = load_peft(tmp_path / "a")
    assert (back.base, back.ranks) == (adapter.base, adapter.ranks)
    for name, factors in adapter.items():
        assert back[name].scale == factors.scale
        assert torch.equal(back[name].a, factors.a)
        assert torch.equal(back[name].b, factors.b)


@pytest.mark.parametrize(("state", "rank"), [("low", 2), ("high", 4)])
def test_scoring_the_export_gives_the_runs_own_row(
    folder: Path, tmp_path: Path, state: str, rank: int
) -> None:
    results = Run.open(folder).read_results() or {}
    row = next(row for row in results["rows"] if row["state"] == state)
    adapter = load_adapter(folder, rank)
    assert score_model(CONFIG, adapter).mean().to_json() == row["unseen"]["mean"]
    save_peft(adapter, tmp_path / "a")
    assert score_model(CONFIG, tmp_path / "a").to_json()["clients"] == row["unseen"]["clients"]


def test_scoring_knows_the_models_context() -> None:
    with pytest.raises(ConfigError, match="max_tokens is 600 but tiny has a context of 512"):
        score_model(small(data={"max_tokens": 600}))
    assert [client.examples for client in score_model(CONFIG).clients] == [1, 1]
