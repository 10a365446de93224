"""Experiment trackers (TensorBoard, MLflow, Weights & Biases, trackio), through `accelerate`.

`[run] trackers = ["tensorboard"]` is all it takes. Where each one writes:

tensorboard  RUN/tensorboard
mlflow       mlflow.db beside the run directory, unless MLFLOW_TRACKING_URI names another store
wandb        RUN/wandb; whether it is also sent anywhere is for WANDB_MODE to say
trackio      trackio's own folder, unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set

What MLflow and wandb would report of their use to their makers is off unless the environment says
otherwise.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, final

from flexlora.errors import ConfigError, cut_short, nearest
from flexlora.formats.atomic import atomic_write
from flexlora.formats.json_fields import table, text
from flexlora.runs.events import Ended, Event, Noted, RoundEnded, Started
from flexlora.runs.fields import natural, truth, typed
from flexlora.runs.files import read_table
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Record, Run

PROJECT = "flexlora"
BOOK = "trackers.json"  # In the run directory: tracker → its entry.
# id: of the tracker's own run; round: logged last; ended: whether the final scores are there.
_ENTRY = {"id": text, "round": natural, "ended": truth}


class Tracker(Protocol):
    """What is used here of `accelerate.tracking.GeneralTracker`."""

    @property
    def tracker(self) -> Any: ...
    def start(self) -> None: ...
    def store_init_configuration(self, values: dict[str, Any]) -> None: ...
    def log(self, values: dict[str, Any], step: int | None = None) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Kind:
    """One tracker that there is.

    make: the run, the id under which it was tracked before (None:
    not yet), and what to undo when it is closed → a tracker not yet started; identify: a started
    tracker's id; look: how to look at it, for people; ready: raises ConfigError where it cannot be
    used though it is installed.
    """

    make: Callable[[Run, str | None, ExitStack], Tracker]
    identify: Callable[[Tracker], str]
    look: Callable[[Run, Tracker], str]
    ready: Callable[[], None] = lambda: None


def _tensorboard(run: Run, _known: str | None, _closing: ExitStack) -> Tracker:
    from accelerate.tracking import TensorBoardTracker

    made: Tracker = TensorBoardTracker("tensorboard", run.folder)
    return made


def _mlflow(run: Run, known: str | None, closing: ExitStack) -> Tracker:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from accelerate.tracking import MLflowTracker

    artifacts = None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        beside = run.folder.absolute().parent
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{beside / 'mlflow.db'}"
        closing.callback(os.environ.pop, "MLFLOW_TRACKING_URI", None)
        artifacts = str(beside / "mlartifacts")
    made: Tracker = MLflowTracker(PROJECT, artifacts, run_id=known, run_name=_name(run))
    return made


def _wandb(run: Run, known: str | None, _closing: ExitStack) -> Tracker:
    import wandb
    from accelerate.tracking import WandBTracker

    made: Tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=_name(run),
        id=known,
        resume="allow",
        dir=str(run.folder),
        settings=wandb.Settings(console="off"),  # What the terminal shows stays here.
    )
    return made


def _trackio(run: Run, known: str | None, closing: ExitStack) -> Tracker:
    import trackio
    from accelerate.tracking import TrackioTracker

    @closing.callback
    def forget() -> None:  # Else trackio finishes the run once more, aloud, when the process ends.
        with suppress(RuntimeError):
            trackio.finish()

    made: Tracker = TrackioTracker(
        PROJECT,
        name=_name(run),
        resume="allow" if known else "never",
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return made


def _name(run: Run) -> str:
    return run.folder.absolute().name


def _require_wandb_login() -> None:
    """Without this wandb would ask for a key, on a terminal that shows a run."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        online = wandb.setup().settings.mode in (None, "online", "run", "shared")
        usable = not online or wandb.login(prompt=False)
    if not usable:
        raise ConfigError(
            "run.trackers has wandb, which is online but has no key; run `wandb login`, or set "
            "WANDB_MODE=offline"
        )


TRACKERS: Mapping[str, Kind] = {
    "tensorboard": Kind(
        _tensorboard,
        lambda _: "tensorboard",
        lambda run, _: f"tensorboard --logdir {run.folder.parent}",
    ),
    "mlflow": Kind(
        _mlflow,
        lambda tracker: str(tracker.tracker.info.run_id),
        lambda *_: f"mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}",
    ),
    "wandb": Kind(
        _wandb,
        lambda tracker: str(tracker.tracker.id),
        lambda run, tracker: str(tracker.tracker.url or f"wandb sync {run.folder / 'wandb'}/*"),
        _require_wandb_login,
    ),
    "trackio": Kind(
        _trackio,
        lambda tracker: str(tracker.tracker.name),
        lambda *_: f"trackio show --project {PROJECT}",
    ),
}


def require_trackers(names: Collection[str]) -> None:
    """Raise ConfigError for a tracker that is unknown, or cannot be used though it is installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"run.trackers has '{name}'; {nearest(name, TRACKERS)}")
    for name in names:
        TRACKERS[name].ready()


def scalars(record: RoundRecord) -> dict[str, float]:
    """A round's record as flat names: what is not a finite number is left out.

    train_loss, learning_rate, examples, tokens, failures, bytes/{down,up}, seconds/<phase>,
    validation/<metric>, clients/<global|tuned>/<metric>/<mean|worst|spread>.
    """
    found: dict[str, float] = {
        "train_loss": record.train_loss,
        "learning_rate": record.learning_rate,
        "examples": record.examples,
        "tokens": record.tokens,
        "failures": record.failures,
        "bytes/down": record.total_bytes_down,
        "bytes/up": record.bytes_up,
    }
    found |= {f"seconds/{phase}": seconds for phase, seconds in record.seconds.items()}
    if record.validation is not None:
        found |= _metrics("validation", record.validation.values)
    if record.on_clients is not None:
        for kind, scores in record.on_clients.by_kind.items():
            for metric, spread in scores.metrics.items():
                found |= _metrics(f"clients/{kind}/{metric}", asdict(spread))
    return _finite(found)


def final_scalars(event: Ended) -> dict[str, float]:
    """The scores at the end: final/<base|start|full|client type>/<unseen|own>/<metric>."""
    found: dict[str, float] = {}
    for row in event.rows:
        for whose, scores in (("unseen", row.unseen), ("own", row.own)):
            if scores is not None:
                found |= _metrics(f"final/{row.state}/{whose}", scores.values)
    return _finite(found)


def _metrics(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    """Names with the signs that every tracker takes, values that are numbers."""
    return {
        re.sub(r"[^\w./ -]", "_", name): value
        for name, value in found.items()
        if math.isfinite(value)
    }


def hyperparameters(run: Run) -> dict[str, Any]:
    """The config as flat names, "table.key"; what is no plain value as JSON."""
    return {
        f"{table}.{key}": value if isinstance(value, str | int | float) else json.dumps(value)
        for table, values in run.config.document().items()
        for key, value in values.items()
    }


def _read_book(path: Path) -> dict[str, Record]:
    """Tracker → its entry. Raises ValueError or RunError for what is none that `Trackers` wrote."""
    book = read_table(path)
    return {name: typed(dict(table(book, name)), _ENTRY, _ENTRY) for name in book}


@dataclass(frozen=True)
class _Open:
    tracker: Tracker
    closing: ExitStack
    look: str


@final
class Trackers:
    """An observer that logs each round's scalars, the final scores and the config.

    The tracker's run has the run directory's name, and a step is a round. A resume goes on in the
    same tracker run (by its id; trackio: the newest of that name) and first logs the rounds that
    are missing there, so that steps never go back and nothing is logged twice; a run that had
    ended is left as it is. Only where the tracker's own store is gone does a resume fail there:
    remove trackers.json from the run directory to begin anew.

    A tracker that fails is dropped, which is told once (`tell`); the run goes on, and a resume
    tries it again.
    """

    def __init__(self, names: Collection[str], tell: Callable[[Event], None]) -> None:
        self.names = names
        self.tell = tell
        self._run: Run | None = None
        self._book: dict[str, Record] = {}
        self._open: dict[str, _Open] = {}

    def told(self, event: Event) -> None:
        match event:
            case Started():
                self._begin(Run.open(event.run))
            case RoundEnded():
                self._log_round(event.record)
            case Ended():
                self._end(event)
            case _:
                pass

    def _begin(self, run: Run) -> None:
        self._run, path = run, run.folder / BOOK
        with run.undamaged(BOOK):
            self._book = _read_book(path) if path.is_file() else {}
            to_do = [name for name in self.names if not self._book.get(name, {}).get("ended")]
        for name in to_do:
            with self._guarded(name):
                self._start(name, run)
            if name in self._open:
                self.tell(Noted(f"tracker {name}: {self._open[name].look}"))
        for record in run.records() if to_do else ():
            self._log_round(record)

    def _log_round(self, record: RoundRecord) -> None:
        for name in list(self._open):
            if record.round > self._book[name]["round"]:
                with self._guarded(name):
                    self._open[name].tracker.log(scalars(record), step=record.round)
                    self._write(name, round=record.round)

    def _end(self, event: Ended) -> None:
        for name in list(self._open):
            with self._guarded(name):
                values = final_scalars(event)
                self._open[name].tracker.log(values, step=self._book[name]["round"])
                self._write(name, ended=True)

    def close(self) -> None:
        """Let go of every tracker, after any end of the run."""
        for name in list(self._open):
            with self._guarded(name):
                self._open.pop(name).closing.close()

    def _start(self, name: str, run: Run) -> None:
        from accelerate import PartialState

        PartialState(cpu=True)  # accelerate's trackers ask it whether this is the main process.
        kind, entry = TRACKERS[name], self._book.get(name)
        with ExitStack() as closing:
            tracker = kind.make(run, entry["id"] if entry else None, closing)
            tracker.start()
            closing.callback(tracker.finish)
            if entry is None:
                tracker.store_init_configuration(hyperparameters(run))
                entry = {"round": run.start_round or 0, "ended": False}
            self._write(name, **{**entry, "id": kind.identify(tracker)})
            look = kind.look(run, tracker)
            self._open[name] = _Open(tracker, closing.pop_all(), look)

    def _write(self, name: str, **changes: object) -> None:
        assert self._run is not None
        self._book[name] = self._book.get(name, {}) | changes
        atomic_write(self._run.folder / BOOK, json.dumps(self._book, indent=2))

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Keep what the library prints from the terminal, and drop the tracker where it fails."""
        failed: Exception | None = None
        chatter = io.StringIO()
        with redirect_stdout(chatter), redirect_stderr(chatter):
            try:
                yield
            except Exception as error:
                failed = error
        if failed is None:
            return
        reason = cut_short(" ".join(f"{type(failed).__name__}: {failed}".split()), 300)
        self.tell(Noted(f"tracker {name} failed and is left out, the run goes on: {reason}"))
        dropped = self._open.pop(name, None)
        if dropped is not None:
            with suppress(Exception), redirect_stdout(chatter), redirect_stderr(chatter):
                dropped.closing.close()
