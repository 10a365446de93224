"""A run directory survives a stop at any point, and two processes do not share it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.config.config import Config, FederationConfig, RunConfig
from flexlora.errors import RunError
from flexlora.formats.atomic import remove_folder
from flexlora.formats.checked import checked
from flexlora.runs import logs
from flexlora.runs.checkpoints import Checkpoints
from flexlora.runs.events import Event, Failed, Noted, RoundBegun
from flexlora.runs.run_directory import Run, fresh_folder
from resealed import reseal
from small import round_record


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = Config(federation=FederationConfig(rounds=7), run=RunConfig(checkpoints=1))
    return Run.create(
        config, tmp_path / "r", resolved={"threads": 2, "ranks": {"a": "3"}}, data={"notes": ["x"]}
    )


def test_what_was_created_is_opened(run: Run) -> None:
    opened = Run.open(run.folder)
    assert opened.config == run.config
    assert opened.resolved == {"threads": 2, "ranks": {"a": "3"}}
    assert opened.data == {"notes": ["x"]}
    assert opened.environment["torch"] == torch.__version__
    assert opened.environment["threads"] == torch.get_num_threads()
    assert (opened.read_metrics(), opened.read_events(), opened.checkpoints()) == ([], [], [])
    assert opened.load_checkpoint() is None
    assert opened.read_results() is None
    opened.write_results({"rouge_l": 0.1})
    assert opened.read_results() == {"rouge_l": 0.1}


def test_fresh_folders_are_numbered_above_all_others(tmp_path: Path) -> None:
    config = Config(run=RunConfig(out=str(tmp_path / "runs")))
    assert fresh_folder(config).name == "flexlora-1"
    for name in ("flexlora-9", "flexlora-x", "other-20"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert Run.create(config).folder.name == "flexlora-10"
    named = Config(run=RunConfig(out=str(tmp_path / "runs"), name="other"))
    assert Run.create(named).folder.name == "other-21"


def test_what_is_no_run_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="r exists; choose another path or remove it"):
        Run.create(run.config, run.folder)
    with pytest.raises(RunError, match=r"none is no run: it has no config\.toml"):
        Run.open(tmp_path / "none")
    for version in (2, 4):
        (run.folder / "format.json").write_text(json.dumps({"version": version}))
        with pytest.raises(RunError, match=f"run format {version}, this FlexLoRA reads 3; use"):
            Run.open(run.folder)
    (run.folder / "format.json").write_text("{")
    with pytest.raises(RunError, match=r"format\.json is missing or damaged"):
        Run.open(run.folder)
    (run.folder / "format.json").write_text('{"version": 3}')
    (run.folder / "config.toml").write_text("[modle]")
    with pytest.raises(RunError, match=r"config\.toml is damaged: it is not as it was written"):
        Run.open(run.folder)
    reseal(run.folder)
    with pytest.raises(RunError, match=r"has a config that cannot be used: .*\[modle\]"):
        Run.open(run.folder)
    (run.folder / "resolved.toml").write_text("x =")
    with pytest.raises(RunError, match=r"resolved\.toml is missing or damaged"):
        _ = run.resolved


def test_logs_are_json_and_are_cut_back_to_a_round(run: Run) -> None:
    run.append_event(Noted("begins"))
    for round in (1, 2, 3):
        run.append_event(RoundBegun(round, ("a\n\r", "\u2028\ud800", '"}')))
        run.append_event(Failed(round, '"}\n\r\u2028\x85', 'no {"event":\n'))
        run.append_metrics(round_record(round, train_loss=math.nan if round == 2 else 0.5 / round))
    for name in ("metrics", "events"):
        with open(run.folder / f"{name}.jsonl", "a") as file:
            file.write('{"round": 4, "lo')  # the process was stopped here
    assert [record["round"] for record in run.read_metrics()] == [1, 2, 3]
    assert run.read_metrics()[1]["train_loss"] is None
    assert math.isnan(run.records()[1].train_loss)
    run.truncate_log(2)
    run.append_metrics(round_record(3))
    run.append_event(RoundBegun(3, ()))
    assert [record.round for record in run.records()] == [1, 2, 3]
    kept = [(type(event), getattr(event, "round", None)) for event in run.events(Event)]
    rounds = [(kind, round) for round in (1, 2) for kind in (RoundBegun, Failed)]
    assert kept == [(Noted, None), *rounds, (RoundBegun, 3)]
    assert run.events(Failed)[0] == Failed(1, '"}\n\r\u2028\x85', 'no {"event":\n')
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_a_log_is_taken_apart_once_however_much_it_has_to_hold(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for round in (1, 2, 3):
        run.append_metrics(round_record(round))
    run.write_checkpoint(3, {}, {})
    lines: list[bytes] = []

    def counted(line: bytes, before: str) -> Any:
        lines.append(line)
        return checked(line, before)

    monkeypatch.setattr(logs, "checked", counted)
    assert len(Run.open(run.folder).records()) == len(lines) == 3


def test_a_log_that_is_damaged_in_the_middle_is_said(run: Run) -> None:
    (run.folder / "metrics.jsonl").write_text('{"round": 1}\nnonsense\n{"round": 2}\n')
    reseal(run.folder)
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged .*; restore it"):
        run.read_metrics()
    (run.folder / "metrics.jsonl").write_text("3\n")
    with pytest.raises(RunError, match=r"line 1 is damaged \(it has no check at its end\)"):
        run.read_metrics()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bytes_up": 1.5}, "bytes_up is 1.5, expected a whole number"),
        ({"failures": True}, "failures is True, expected a whole number"),
        ({"train_loss": "low"}, "train_loss is 'low', expected a number"),
        ({"clients": "a"}, "clients is 'a', expected a list of texts"),
        ({"types": {"low": "x"}}, "types.low is 'x', expected a whole number"),
        ({"seconds": []}, r"seconds is \[\], expected an object"),
        ({"validation": {"clients": 1, "examples": 1, "loss": "x"}}, "loss is 'x', expected"),
        ({"on_clients": {"global": {}}}, "metrics is missing"),
        ({"cut": {"error": 1}}, "certificates is missing"),
        ({"round": None}, "round is None, expected a whole number"),
        ({"bytes_up": -1}, "bytes_up is -1, expected 0 or more"),
        ({"tokens": 10**400}, "tokens is 10{58}…, expected 9223372036854775807 at most"),
        (
            {"screened": {"a": {"weight": 1, "shrink": 1, "reason": 3}}},
            "reason is 3, expected a text",
        ),
    ],
)
def test_a_wrong_entry_of_a_round_is_named_with_its_file_and_line(
    run: Run, change: dict[str, Any], words: str
) -> None:
    run.append_metrics(round_record(1))
    line = round_record(2).to_json() | change
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    reseal(run.folder)
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 2 is damaged \({words}"):
        run.records()


COUNTED = dict.fromkeys(("rounds", "scored_round", "bytes_up", "bytes_down", "seconds"), 1)
ENDED = {"event": "result", "run": "r", "rule": "fedit", **COUNTED}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"round": 1}, "event is missing"),
        ({"event": "failure", "round": 1, "client": "a"}, "reason is missing"),
        ({"event": "round_begun", "round": "x", "clients": []}, "round is 'x', expected"),
        ({"event": "result"}, "run is missing"),
        (ENDED, "rows is missing"),
        ({"event": "round", "round": 1}, "learning_rate is missing"),
        ({"event": "note", "text": "x", "time": "now"}, "time is 'now', expected a number"),
    ],
)
def test_a_wrong_event_is_named_with_its_file_and_line(
    run: Run, line: dict[str, Any], words: str
) -> None:
    run.append_event(Noted("begins"))
    with open(run.folder / "events.jsonl", "a") as file:
        file.write(json.dumps({"time": 0.0} | line) + "\n")
    reseal(run.folder)
    with pytest.raises(RunError, match=rf"events\.jsonl, line 2 is damaged \({words}"):
        run.events(Event)


def test_events_of_other_versions_are_left_out(run: Run) -> None:
    with open(run.folder / "events.jsonl", "a") as file:
        file.write('{"event": "tracker", "tracker": "mlflow"}\n')
        file.write(json.dumps(Failed(1, "a", "no").to_json()) + "\n")
    reseal(run.folder)
    assert run.events(Event) == [Failed(1, "a", "no")]


def state(round: int) -> dict[str, torch.Tensor]:
    return {"layer|x|u": torch.full((2, 3), round / 3), "half": torch.ones(2).bfloat16()}


def test_checkpoints_come_back_and_only_last_and_best_stay(run: Run) -> None:
    bests = [None, 2, 2, 2]
    for round, best in enumerate(bests, 1):
        run.write_checkpoint(round, state(round), {"round": round, "x": 0.1}, best=best)
    assert run.checkpoints() == [2, 4]
    for asked, round in ((None, 4), ("last", 4), ("best", 2), (2, 2)):
        tensors, meta = run.load_checkpoint(asked) or pytest.fail("no checkpoint")
        assert meta == {"round": round, "x": 0.1}
        assert tensors.keys() == state(round).keys()
        for name, tensor in state(round).items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor)
    assert run.load_checkpoint(3) is None
    run.write_checkpoint(5, state(9), {}, best=None)
    assert run.checkpoints() == [5]
    tensors, _ = run.load_checkpoint("best") or pytest.fail("no checkpoint")
    assert torch.equal(tensors["layer|x|u"], state(9)["layer|x|u"])


def test_who_reads_while_checkpoints_come_and_go_reads_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the list of the rounds and a look into the last one, that one was replaced."""
    run.append_metrics(round_record(1))
    run.write_checkpoint(1, state(1), {"round": 1})
    listed = Checkpoints.rounds
    moved: list[int] = []

    def late(self: Checkpoints) -> list[int]:
        found = listed(self)
        if not moved:
            moved.append(2)
            monkeypatch.setattr(Checkpoints, "rounds", listed)
            run.append_metrics(round_record(2))
            run.write_checkpoint(2, state(2), {"round": 2})
        return found

    for read in (
        lambda: (run.load_checkpoint("last") or pytest.fail("none"))[1],
        lambda: (run.load_checkpoint("best") or pytest.fail("none"))[1],
        run.last_meta,
    ):
        monkeypatch.setattr(Checkpoints, "rounds", late)
        assert read() == {"round": 2}
        moved.clear()
        remove_folder(run.folder / "checkpoints" / "round-0002")
        run.truncate_log(1)
        run.write_checkpoint(1, state(1), {"round": 1})


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run: Run) -> None:
    run.append_metrics(round_record(1))
    assert run.load_checkpoint() is None  # Killed before the first one: that is a healthy run.
    gone = r"checkpoints is missing or damaged; restore it, or start a new run"
    run.append_metrics(round_record(2))
    with pytest.raises(RunError, match=gone):
        run.load_checkpoint()
    run.truncate_log(0)
    assert run.load_checkpoint() is None
    run.write_results({"rows": []})
    with pytest.raises(RunError, match=gone):
        run.load_checkpoint()


def test_a_run_that_has_ended_can_leave_what_it_scored_alone(run: Run) -> None:
    run.append_metrics(round_record(1))
    run.write_checkpoint(1, state(1), {})
    with pytest.raises(RunError, match=r"has not ended; end it with: flexlora resume"):
        run.leave_scores()
    assert run.checkpoints() == [1]
    run.write_results({"rows": []})
    run.leave_scores()
    run.leave_scores()  # Once more is no harm.
    assert not (run.folder / "checkpoints").exists()
    again = Run.open(run.folder)
    assert (again.records(), again.read_results()) == ([round_record(1)], {"rows": []})
    with pytest.raises(RunError, match=r"a comparison keeps none of its tuning runs"):
        again.load_checkpoint()


@pytest.mark.parametrize("round", ["null", '"x"', "1.5", "[]"])
@pytest.mark.parametrize("name", ["metrics", "events", "spectra"])
def test_a_line_of_no_round_is_said_before_the_log_is_cut(run: Run, name: str, round: str) -> None:
    with open(run.folder / f"{name}.jsonl", "a") as file:
        file.write(f'{{"round": {round}}}\n')
    reseal(run.folder)
    wanted = rf"{name}\.jsonl, line 1 is damaged \(round is .* expected a whole number\)"
    with pytest.raises(RunError, match=wanted):
        run.truncate_log(0)


def test_a_round_without_a_checkpoint_is_not_committed(run: Run) -> None:
    run.append_metrics(round_record(1))
    assert run.committed() == []
    run.write_checkpoint(1, state(1), {})
    run.append_metrics(round_record(2))
    assert run.committed() == [round_record(1)]


def test_a_checkpoint_that_cannot_be_written_leaves_the_last(run: Run) -> None:
    run.write_checkpoint(1, state(1), {})
    with pytest.raises(ValueError, match="JSON"):
        run.write_checkpoint(2, state(2), {"best": math.inf})
    assert run.checkpoints() == [1]
    assert run.load_checkpoint() is not None


def test_a_damaged_checkpoint_is_said(run: Run) -> None:
    run.write_checkpoint(1, state(1), {})
    folder = run.folder / "checkpoints" / "round-0001"
    before = (folder / "state.safetensors").read_bytes()
    for damage in (b"x", before[:-1], before[:-1] + bytes([before[-1] ^ 1])):
        (folder / "state.safetensors").write_bytes(damage)
        with pytest.raises(RunError, match=r"state\.safetensors is damaged: it is not as it was"):
            Run.open(run.folder).load_checkpoint()
    (folder / "state.safetensors").write_bytes(before)
    (folder / "other.json").touch()
    with pytest.raises(RunError, match=r"other\.json is not of what was written here; remove it"):
        Run.open(run.folder).load_checkpoint()
    (folder / "other.json").unlink()
    (folder / "meta.json").unlink()
    with pytest.raises(RunError, match=r"meta\.json is missing; restore it"):
        Run.open(run.folder).load_checkpoint()


def test_a_checkpoint_of_another_run_or_round_is_said(run: Run, tmp_path: Path) -> None:
    run.write_checkpoint(1, state(1), {})
    other = Run.create(Config(), tmp_path / "other")
    other.write_checkpoint(1, state(2), {})
    ours = run.folder / "checkpoints" / "round-0001"
    shutil.copytree(ours, ours.with_name("round-0002"))
    with pytest.raises(RunError, match="round-0002 is of another run or round; restore it"):
        Run.open(run.folder).load_checkpoint()
    shutil.rmtree(ours.with_name("round-0002"))
    shutil.rmtree(ours)
    shutil.copytree(other.folder / "checkpoints" / "round-0001", ours)
    with pytest.raises(RunError, match="round-0001 is of another run or round; restore it"):
        Run.open(run.folder).load_checkpoint()


def damage_of_lines(lines: list[bytes]) -> dict[str, list[bytes]]:
    first, second, *rest = lines
    return {
        "changed": [first.replace(b"0.5", b"0.6"), second, *rest],
        "lost": [first, *rest],
        "moved": [second, first, *rest],
        "twice": [first, first, second, *rest],
        "lost at the end": [first, second],
    }


@pytest.mark.parametrize("name", ["metrics", "events", "spectra"])
@pytest.mark.parametrize("how", list(damage_of_lines([b""] * 3)))
def test_a_line_that_is_not_as_it_was_is_found(run: Run, name: str, how: str) -> None:
    for round in (1, 2, 3):
        run.append_metrics(round_record(round))
        run.append_event(Noted("0.5"))
        run.append_spectra({"round": round, "layers": {}, "x": 0.5})
    run.write_checkpoint(3, {}, {})
    path = run.folder / f"{name}.jsonl"
    path.write_bytes(b"".join(damage_of_lines(path.read_bytes().splitlines(keepends=True))[how]))
    opened = Run.open(run.folder)
    reads = {"metrics": opened.read_metrics, "spectra": opened.read_spectra}
    wanted = rf"{name}\.jsonl(, line \d is damaged| lacks lines that a checkpoint was made after)"
    with pytest.raises(RunError, match=wanted):
        reads.get(name, opened.read_events)()
    with pytest.raises(RunError, match=wanted):
        opened.truncate_log(3)


@pytest.mark.parametrize("rounds", [(1, 3), (2, 3), (1, 2), (1, 2, 2, 3), (1, 2, 4)])
def test_metrics_have_the_rounds_that_a_checkpoint_claims(
    run: Run, rounds: tuple[int, ...]
) -> None:
    for round in rounds:
        run.append_metrics(round_record(round))
    run.write_checkpoint(3, {}, {})
    with pytest.raises(RunError, match=r"metrics\.jsonl has not (round \d|3 rounds alone); rest"):
        run.committed()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("resolved.toml", 'threads = "2"', "threads is '2', expected a whole number"),
        ("resolved.toml", "threads = 0", "threads is 0, expected 1 or more"),
        ("resolved.toml", "[ranks]\na = 3", "a is 3, expected a text"),
        ("resolved.toml", "x = " + "[" * 9999, ""),
        ("parent.json", '{"start": "x"}', "start is 'x', expected a whole number"),
        ("data.json", "[" * 99999, ""),
    ],
)
def test_small_files_are_of_their_types(run: Run, name: str, text: str, words: str) -> None:
    (run.folder / name).write_text(text)
    opened = Run.open(reseal(run.folder))
    with pytest.raises(RunError, match=rf"{name} is missing or damaged.*{words}"):
        _ = opened.resolved, opened.parent, opened.data


def test_two_holders_exclude_each_other_and_leftovers_go(run: Run) -> None:
    places = (run.folder, run.folder / "checkpoints", run.folder / "memory" / "ab01")
    left = [folder / ".round-0002.000000-1.0123abcd.tmp" for folder in places]
    for path in left:
        path.mkdir(parents=True)
        (path / "state").touch()
    left.append(run.folder / "memory" / "ab01" / ".000003.safetensors.000000-1.0123abcd.tmp")
    left[-1].touch()
    theirs = run.folder / "tensorboard" / ".cache.tmp"
    theirs.mkdir(parents=True)
    with run.locked():
        assert not [path for path in left if path.exists()]
        assert theirs.exists()
        with (
            pytest.raises(RunError, match="in use by another process"),
            Run.open(run.folder).locked(),
        ):
            pytest.fail("the lock was given twice")
    with run.locked():
        pass


def test_checkpoints_that_were_to_go_do(run: Run) -> None:
    """Killed between writing one and removing those before it."""
    for round in (1, 2, 3):
        run.write_checkpoint(round, state(round), {}, best=1)
        shutil.copytree(run.folder / "checkpoints", run.folder / f"kept-{round}")
    shutil.copytree(run.folder / "kept-2" / "round-0002", run.folder / "checkpoints/round-0002")
    assert run.checkpoints() == [1, 2, 3]
    with run.locked():
        assert run.checkpoints() == [1, 3]


def test_two_who_make_a_run_at_once_get_a_number_each(tmp_path: Path) -> None:
    config = Config(run=RunConfig(out=str(tmp_path / "runs")))
    others = iter(range(2))

    def meanwhile(_: Path) -> None:
        if next(others, None) is not None:
            Run.create(config)

    assert Run.create(config, bring=meanwhile).folder.name == "flexlora-3"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        f"flexlora-{n}" for n in (1, 2, 3)
    ]


def test_a_run_can_be_moved(run: Run, tmp_path: Path) -> None:
    run.write_checkpoint(1, state(1), {})
    shutil.move(run.folder, tmp_path / "elsewhere")
    assert Run.open(tmp_path / "elsewhere").checkpoints() == [1]
