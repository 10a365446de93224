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
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from flexlora.errors import cut_short
from flexlora.federation.tracked import final_scalars, hyperparameters, scalars
from flexlora.federation.tracker_kinds import TRACKERS, Tracker
from flexlora.formats.atomic import atomic_write
from flexlora.formats.json_fields import table, text
from flexlora.runs.events import Ended, Event, Noted, RoundEnded, Started
from flexlora.runs.fields import natural, truth, typed
from flexlora.runs.files import read_table
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Record, Run

BOOK = "trackers.json"  # In the run directory: tracker → its entry.
# id: of the tracker's own run; round: logged last; ended: whether the final scores are there.
_ENTRY = {"id": text, "round": natural, "ended": truth}


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
