"""Trackers: what they are given, that the real libraries keep it, and that none stops a run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from flexlora.errors import ConfigError, RunError
from flexlora.federation import Session, resume, run
from flexlora.federation import trackers as module
from flexlora.federation.observers import Silent, started
from flexlora.federation.tracked import scalars
from flexlora.federation.tracker_kinds import TRACKERS
from flexlora.federation.trackers import Trackers
from flexlora.runs.events import Event, Noted, RoundEnded
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from small import small, write

pytestmark = pytest.mark.whole

Steps = dict[str, list[tuple[int, float]]]


class Told(Silent):
    """Remembers what was noted; stops the run after a round, as a kill would."""

    def __init__(self, stop: int = 0) -> None:
        self.notes: list[str] = []
        self.stop = stop

    def told(self, event: Event) -> None:
        if isinstance(event, Noted):
            self.notes.append(event.text)
        if isinstance(event, RoundEnded) and event.record.round == self.stop:
            raise KeyboardInterrupt


def tracked(*names: str, **tables: Any) -> Any:
    return small(run={"trackers": list(names)}, **tables)


def tensorboard(folder: Path) -> Steps:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def expected(folder: Path) -> Steps:
    found: Steps = {}
    for record in Run.open(folder).records():
        for name, value in scalars(record).items():
            found.setdefault(name, []).append((record.round, value))
    return found


def close_to(steps: Steps) -> Any:
    return {k: [(n, pytest.approx(v, rel=1e-5)) for n, v in values] for k, values in steps.items()}


def test_a_round_as_flat_names() -> None:
    record = {
        "round": 3,
        "learning_rate": 0.5,
        "clients": ["a", "b"],
        "types": {"low": 2},
        "failures": 1,
        "train_loss": float("nan"),
        "examples": 4,
        "tokens": 9,
        "bytes_down": 5,
        "bytes_up": 6,
        "peak_bytes": 8,
        "seconds": {"clients": 1.5, "combine": 0.5},
        "validation": {"clients": 2, "examples": 3, "loss": 1.0, "rouge_l": None, "my metric!": 2},
        "on_clients": {
            "global": {
                "clients": 1,
                "examples": 2,
                "metrics": {"loss": {"mean": 1.0, "worst": 2.0, "spread": 0.5}},
            },
            "failures": 0,
            "bytes_down": 7,
        },
    }
    assert scalars(RoundRecord.from_json(record)) == {
        "learning_rate": 0.5,
        "failures": 1,
        "examples": 4,
        "tokens": 9,
        "bytes/down": 12,  # To train and to evaluate.
        "bytes/up": 6,
        "bytes/peak": 8,
        "seconds/clients": 1.5,
        "seconds/combine": 0.5,
        "validation/loss": 1.0,
        "validation/my metric_": 2,
        "clients/global/loss/mean": 1.0,
        "clients/global/loss/worst": 2.0,
        "clients/global/loss/spread": 0.5,
    }


def test_tensorboard_keeps_rounds_final_scores_and_config(tmp_path: Path) -> None:
    told = Told()
    result = run(tracked("tensorboard"), tmp_path / "r", observer=told)
    assert told.notes == [f"tracker tensorboard: tensorboard --logdir {tmp_path}"]
    found, wanted = tensorboard(result.folder), expected(result.folder)
    assert {k: v for k, v in found.items() if not k.startswith("final/")} == close_to(wanted)
    assert {"train_loss", "validation/loss", "clients/tuned/loss/worst"} <= set(wanted)
    loss = result.row("full").unseen.mean().to_json()["loss"]
    ((step, value),) = found["final/full/unseen/loss"]
    assert step == 3
    assert value == pytest.approx(loss, rel=1e-5)
    assert "final/base/own/loss" in found
    (kept,) = (result.folder / "tensorboard").rglob("hparams.yml")
    values = yaml.safe_load(kept.read_text())
    assert values["federation.rounds"] == 3
    assert json.loads(values["clients.types"]) == {"low": 2, "high": 4}


def test_a_resume_goes_on_and_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    """The stop comes between the commit of round 2 and its logging."""
    with pytest.raises(KeyboardInterrupt):
        run(tracked("tensorboard"), tmp_path / "r", observer=Told(stop=2))
    assert [step for step, _ in tensorboard(tmp_path / "r")["train_loss"]] == [1]
    resume(tmp_path / "r")
    found = tensorboard(tmp_path / "r")
    assert found["train_loss"] == close_to(expected(tmp_path / "r"))["train_loss"]
    assert [step for step, _ in found["train_loss"]] == [1, 2, 3]
    before = sorted((tmp_path / "r" / "tensorboard").rglob("*"))
    resume(tmp_path / "r")
    assert sorted((tmp_path / "r" / "tensorboard").rglob("*")) == before
    assert len(tensorboard(tmp_path / "r")["final/full/unseen/loss"]) == 1


def test_mlflow_keeps_one_run_in_a_store_beside_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(tracked("mlflow"), tmp_path / "r", observer=Told(stop=2))
    resume(tmp_path / "r")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("flexlora")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.run_name == "r"
    assert kept.info.status == "FINISHED"
    assert kept.data.params["federation.rounds"] == "3"
    history = client.get_metric_history(kept.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == expected(tmp_path / "r")["train_loss"]
    assert "final/full/unseen/loss" in kept.data.metrics


GUARDED = """
import socket, sys
whole = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "localhost", "::1")):
        open("phoned", "a").write(repr(address))
        raise OSError("no network")
    return whole(self, address)
socket.socket.connect = connect
from flexlora.cli.main import main
main()
"""


def test_all_four_at_once_stay_on_this_machine(tmp_path: Path) -> None:
    """wandb and trackio read their environment once: a process of its own."""
    config = write(
        tracked(*TRACKERS, federation={"rounds": 1, "clients_per_round": 1}), tmp_path / "c.toml"
    )
    kept_away = ("MLFLOW_", "WANDB_", "TRACKIO_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(kept_away)}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, "run", config, "--out", "r", "--quiet"],
        cwd=tmp_path,
        env=environment
        | {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "t"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "r\n", "")
    assert not (tmp_path / "phoned").exists()
    book = json.loads((tmp_path / "r" / "trackers.json").read_text())
    assert set(book) == set(TRACKERS)
    assert all(entry["ended"] and entry["round"] == 1 for entry in book.values())
    (offline,) = (tmp_path / "r" / "wandb").glob(f"offline-run-*-{book['wandb']['id']}/*.wandb")
    assert b"train_loss" in offline.read_bytes()
    with sqlite3.connect(tmp_path / "t" / "flexlora.db") as base:
        rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("r", 1), ("r", 1)]
    (first,) = expected(tmp_path / "r")["train_loss"]
    assert json.loads(rows[0][2])["train_loss"] == first[1]


def test_a_tracker_that_cannot_start_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foreign://nowhere")
    told = Told()
    result = run(tracked("mlflow", "tensorboard"), tmp_path / "r", observer=told)
    assert result.rounds == 3
    assert [note.split(":")[0] for note in told.notes] == [
        "tracker mlflow failed and is left out, the run goes on",
        "tracker tensorboard",
    ]
    assert [event.text for event in Run.open(tmp_path / "r").events(Noted)] == told.notes
    assert len(tensorboard(tmp_path / "r")["train_loss"]) == 3


class Full:
    """A tracker whose disk is full from a step on."""

    tracker = None

    def __init__(self, step: int) -> None:
        self.step = step
        self.steps: list[int] = []
        self.finished = 0

    def start(self) -> None: ...
    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        assert step is not None
        print("loud")
        if step >= self.step:
            raise OSError(28, "no space left")
        self.steps.append(step)

    def finish(self) -> None:
        self.finished += 1


def test_a_tracker_that_fails_on_the_way_is_dropped_and_tried_again_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Full(2)

    kind = replace(TRACKERS["tensorboard"], make=lambda *_: full)
    monkeypatch.setattr(module, "TRACKERS", {**TRACKERS, "tensorboard": kind})
    told = Told(stop=3)
    with pytest.raises(KeyboardInterrupt):
        run(tracked("tensorboard"), tmp_path / "r", observer=told)
    assert (full.steps, full.finished) == ([1], 1)
    assert len(told.notes) == 2
    assert "tracker tensorboard failed" in told.notes[1]
    assert "no space left" in told.notes[1]
    assert "loud" not in capsys.readouterr().out
    full.step = 9
    resume(tmp_path / "r")
    assert full.steps == [1, 2, 3, 3]  # The final scores stand at the last round.


@pytest.mark.parametrize(
    ("book", "reason"),
    [
        ("[]", "it is not a JSON table"),
        ('{"tensorboard": 3}', "tensorboard is 3, expected an object"),
        ('{"tensorboard": {"round": "x"}}', "round is 'x', expected a whole number"),
        ('{"tensorboard": {"id": "r", "round": -1}}', "round is -1, expected 0 or more"),
        ('{"tensorboard": {"id": 3, "round": 1}}', "id is 3, expected a text"),
        ('{"tensorboard": {"id": "r", "round": 1, "ended": 0}}', "ended is 0, expected true or"),
        ('{"tensorboard": {"id": "r", "round": 1}}', "ended is missing"),
    ],
)
def test_a_damaged_book_of_trackers_is_told(tmp_path: Path, book: str, reason: str) -> None:
    made = Run.create(tracked("tensorboard"), tmp_path / "r")
    (made.folder / "trackers.json").write_text(book)
    with pytest.raises(RunError, match=rf"trackers\.json is missing or damaged \({reason}"):
        Trackers(["tensorboard"], lambda _: None).told(started(made))


def test_a_tracker_without_an_id_leaves_no_half_of_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: object) -> str:
        raise OSError("no id")

    kind = replace(TRACKERS["tensorboard"], make=lambda *_: Full(9), identify=lost)
    whole = replace(TRACKERS["tensorboard"], make=lambda *_: Full(9))
    monkeypatch.setattr(module, "TRACKERS", {"lost": kind, "tensorboard": whole})
    made = Run.create(small(), tmp_path / "r")
    Trackers(["lost", "tensorboard"], lambda _: None).told(started(made))
    book = json.loads((made.folder / "trackers.json").read_text())
    assert list(book) == ["tensorboard"]
    assert book["tensorboard"].keys() == {"id", "round", "ended"}


def test_without_trackers_nothing_is_written_for_them(tmp_path: Path) -> None:
    folder = run(small(federation={"rounds": 1}), tmp_path / "r").folder
    assert not {"trackers.json", "tensorboard"} & {path.name for path in folder.iterdir()}


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexlora.extras.find_spec", lambda name: None if name == "wandb" else True)
    with pytest.raises(ConfigError, match=r"wandb is not installed; install .* flexlora\[wandb\]"):
        Session.of(small(run={"trackers": ["tensorboard", "wandb"]}))


def test_all_extras_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexlora.extras.find_spec", lambda _: None)
    asked = small(
        run={"trackers": ["wandb", "trackio"]},
        model={"quantise": "4bit"},
        data={"source": "parquet", "path": "p", "prompt": "q", "response": "a"},
    )
    with pytest.raises(ConfigError) as caught:
        Session.of(asked)
    assert str(caught.value) == (
        "run.trackers has wandb, but accelerate and wandb are not installed; run.trackers has "
        "trackio, but accelerate and trackio are not installed; data.source is parquet, but "
        "pyarrow is not installed; model.quantise is 4bit, but bitsandbytes and accelerate are not "
        "installed; install the extras flexlora[wandb,trackio,parquet,quant]"
    )
