"""What a run directory tells of its run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flexlora.errors import RunError
from flexlora.federation import resume, run
from flexlora.report.read import read_runs
from flexlora.runs import Result
from flexlora.runs.events import FAILURES, Event, Failed, Replied, Started
from flexlora.runs.overview import largest_pass, overview
from flexlora.runs.progress import Progress
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from resealed import reseal
from small import small

NONE = dict.fromkeys(FAILURES, 0)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(small(rule={"name": "hetlora"}), tmp_path_factory.mktemp("runs") / "r")


@pytest.fixture
def folder(result: Result, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(result.folder, tmp_path / "r"))


def test_a_finished_run(result: Result) -> None:
    found = overview(result.folder)
    records = Run.open(result.folder).read_metrics()
    assert (found["kind"], found["state"]) == ("run", "finished")
    assert (found["round"], found["rounds"], found["rounds_played"]) == (3, 3, 3)
    assert found["rule"] == {"name": "hetlora"}
    assert found["model"] == {"name": "tiny", "dtype": "float32"}
    assert (found["parent"], found["failures"]) == (None, [])
    assert found["best"]["round"] == result.scored_round
    wanted = next(r for r in records if r["round"] == result.scored_round)["validation"]
    assert found["best"]["validation"] == wanted
    assert found["last"]["train_loss"] == records[-1]["train_loss"]
    assert (found["bytes_up"], found["bytes_down"]) == (result.bytes_up, result.bytes_down)
    assert found["seconds"] == pytest.approx(result.seconds)
    on_disk = sum(p.stat().st_size for p in result.folder.rglob("*") if p.is_file())
    assert found["bytes_on_disk"] == on_disk
    assert json.loads(json.dumps(found)) == found


def test_who_took_part_at_which_rank(result: Result) -> None:
    found = overview(result.folder)
    records = Run.open(result.folder).read_metrics()
    for client, told in found["clients"].items():
        assert told["rounds"] == [r["round"] for r in records if client in r["clients"]]
        assert all(
            rank <= int(found["types"][told["type"]]["ranks"]) for rank in told["ranks"].values()
        )
    assert sum(len(c["rounds"]) for c in found["clients"].values()) == 6
    for name, rank in (("low", "2"), ("high", "4")):
        counted = sum(r["types"].get(name, 0) for r in records)
        told = found["types"][name]
        passes = [x for x in Run.open(result.folder).events(Replied) if x.type == name]
        assert told == {
            "ranks": rank,
            "clients": 2,
            "replies": counted,
            "failures": NONE,
            **largest_pass(passes),
        }


def test_the_largest_pass_is_that_of_the_fewest_clients_and_may_be_unknown() -> None:
    reply = Replied(1, "a", "low", 4, 90, 1.5, 0.25, 1000)
    known = [replace(reply, peak_bytes=p, cohort=n) for p, n in ((5, 1), (9, 8), (9, 4))]
    assert largest_pass([*known, reply]) == {"peak_bytes": 9, "cohort": 4}
    assert largest_pass([reply]) == {"peak_bytes": None, "cohort": None}


def test_failures_are_told_by_client_and_type(folder: Path) -> None:
    opened = Run.open(folder)
    client = opened.read_metrics()[0]["clients"][0]
    for name in (client, "nobody that is known"):
        opened.append_event(Failed(2, name, "its disk is full"))
    opened.append_event(Failed(2, client, "it is asleep", "evaluate"))
    opened.append_event(Failed(2, client, "answers job 2-0, which is not open", "stray"))
    with open(folder / "events.jsonl", "a") as file:
        file.write('{"round": 2, "event": "something else"}\n')
    reseal(folder)
    found = overview(folder)
    assert [told["reason"] for told in found["failures"]] == [
        *["its disk is full"] * 2,
        "it is asleep",
    ]
    assert [told["kind"] for told in found["refused"]] == ["stray"]  # No failure of who answered.
    wanted = {**NONE, "train": 1, "evaluate": 1, "stray": 1}
    assert found["clients"][client]["failures"] == wanted
    assert found["types"][found["clients"][client]["type"]]["failures"] == wanted


def unfinished(result: Result, folder: Path, rounds: int, lines: int | None = None) -> Run:
    """As it stood after so many rounds, and so many lines of them, when it was stopped.

    Of the checkpoints only what they say of rounds is as it was then.
    """
    shutil.copytree(result.folder, folder, ignore=shutil.ignore_patterns("results.json", "*.jsonl"))
    run, whole = Run.open(folder), Run.open(result.folder)
    tensors, meta = whole.load_checkpoint("last") or pytest.fail("no checkpoint")
    shutil.rmtree(folder / "checkpoints")
    for event in whole.events(Event)[:1]:
        run.append_event(event)
    for record in whole.records()[: rounds if lines is None else lines]:
        run.append_metrics(record)
        if record.round <= rounds:
            run.write_checkpoint(record.round, tensors, meta)
    return run


def test_the_states_of_a_run(result: Result, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    opened = unfinished(result, folder, 3)
    assert overview(folder)["state"] == "not scored"
    with opened.locked():
        assert overview(folder)["state"] == "running"
    unfinished_again = overview(folder)
    assert unfinished_again["state"] == "not scored"


@pytest.mark.parametrize(("rounds", "lines"), [(2, 2), (2, 3), (1, 1), (0, 1), (0, 0)])
def test_a_run_that_was_stopped(result: Result, tmp_path: Path, rounds: int, lines: int) -> None:
    """Also between a round's line and its checkpoint, and in its first round."""
    unfinished(result, tmp_path / "r", rounds, lines)
    found = overview(tmp_path / "r")
    assert (found["state"], found["round"], found["rounds_played"]) == ("stopped", rounds, rounds)
    assert (found["last"] is None) == (found["bytes_down"] == 0) == (rounds == 0)
    assert Standing.of(Run.open(tmp_path / "r")).last == rounds
    (told,) = read_runs([tmp_path / "r"])
    assert [record.round for record in told.rounds] == list(range(1, rounds + 1))


def test_patience_ends_a_run_before_its_last_round(result: Result, tmp_path: Path) -> None:
    run = Run.create(small(federation={"patience": 1}), tmp_path / "r", resolved={"layers": 8})
    _, meta = Run.open(result.folder).load_checkpoint("last") or pytest.fail("no checkpoint")
    run.append_event(Started("r", "hetlora", "tiny", 3, 0, {}, ()))
    for record in Run.open(result.folder).records()[:2]:
        run.append_metrics(record)
    run.write_checkpoint(2, {}, meta | {"progress": Progress(1.0, 1, 1).to_json()})
    found = overview(tmp_path / "r")
    assert found["state"] == "not scored"
    assert found["sooner"].startswith("nothing better than round 1 for 1 validated round (fed")


def test_a_run_without_a_single_round(tmp_path: Path) -> None:
    made = Run.create(small(), tmp_path / "r", resolved={"threads": 1, "layers": 8})
    found = overview(made.folder)
    assert found["state"] == "never started"
    assert (found["best"], found["last"], found["clients"], found["types"]) == (None, None, {}, {})


def test_results_that_are_gone_are_made_again_by_a_resume(folder: Path) -> None:
    (folder / "results.json").unlink()
    with pytest.raises(RunError, match=r"results\.json is missing, though the run has ended"):
        overview(folder)
    resume(folder)
    assert overview(folder)["state"] == "finished"


def test_what_is_damaged_or_no_run_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        overview(tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text('{"round": 1}\n' + "\n".join(lines[1:]) + "\n")
    reseal(folder)
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 1 is damaged \(learning_rate is"):
        overview(folder)
