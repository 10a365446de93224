"""A run directory: everything that one federation was, did and left.

config.toml        what was asked          events.jsonl   what happened
resolved.toml      what was derived        metrics.jsonl  one line a round
environment.json   versions, machine       checkpoints/   round-0007/{state.safetensors,meta.json}
data.json          fingerprint, notes      spectra.jsonl  singular values, validated rounds
format.json        version of this layout  spool/, next/  replies, layers of a round
parent.json        what it began from      results.json   the final scores
trained.json       digests of what was trained on, here or by what it began from
SHA256SUMS         of what is written once, when the run is made
rows/              data that was held in memory
code/              own files of its rule and metrics, as they were
wire/              answers as they come over a network, in chunks
memory/            what clients remember   trackers.json, tensorboard/, wandb/   of its trackers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from flexlora.config.config import Config
from flexlora.errors import RunError
from flexlora.formats.atomic import (
    Taken,
    atomic_folder,
    atomic_write,
    remove_leftovers,
)
from flexlora.formats.checked import checked, file_digest, with_check
from flexlora.formats.home import expanded
from flexlora.formats.json_fields import whole
from flexlora.runs.checkpoints import Checkpoint as Checkpoint
from flexlora.runs.checkpoints import Checkpoints
from flexlora.runs.events import Ended, Event
from flexlora.runs.files import CURE, UNREADABLE, damaged, read_table
from flexlora.runs.files import Record as Record
from flexlora.runs.lock import in_use, locked
from flexlora.runs.logs import Log
from flexlora.runs.once import (
    read_config,
    read_parent,
    read_resolved,
    read_trained,
    write_once,
)
from flexlora.runs.records import RoundRecord
from flexlora.runs.sums import NAME
from flexlora.tasks.trained import UNTRAINED, Trained

CODE = "code"
_LOGS = ("events", "metrics", "spectra")
E = TypeVar("E", bound=Event)


class Run:
    """One run directory. Logs only grow, everything else is replaced whole or not at all.

    Reading needs no lock; whoever plays rounds holds `locked()`.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        """Use `Run.create` or `Run.open`."""
        self.folder = folder
        self.config = config
        self._logs = {name: Log(folder / f"{name}.jsonl") for name in _LOGS}

    @staticmethod
    def create(
        config: Config,
        folder: Path | str | None = None,
        *,
        resolved: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        parent: Mapping[str, Any] | None = None,
        start: Checkpoint | None = None,
        trained: Trained = UNTRAINED,
        bring: Callable[[Path], None] = lambda _: None,
    ) -> Run:
        """Make a new run directory: `folder`, or `<run.out>/<run.name>-<n>` with the next free n.

        resolved: choices made by measurement or derivation (no none values); those that change
        bits, the device, threads, clients at once and the date that chats are told, are used again
        on resume, the others noted;
        data: what was read (fingerprint, counts, notes); parent, start: what the run begins from,
        and its state, kept as the checkpoint of round `parent["start"]`; trained: what it and
        what it begins from are trained on; bring: puts whatever else a run begins with into its
        folder, which appears whole or not at all. Raises RunError when the folder exists.
        """

        def make(target: Path) -> Run:
            with atomic_folder(target) as aside:
                fill(aside)
            return Run(target, config)

        def fill(aside: Path) -> None:
            (aside / "checkpoints").mkdir()
            write_once(aside, config, resolved or {}, data or {}, parent, trained)
            for name in _LOGS:
                (aside / f"{name}.jsonl").touch()
            if parent is not None and start is not None:
                Run(aside, config).write_checkpoint(parent["start"], *start)
            bring(aside)

        if folder is not None:
            return make(expanded(folder))
        while True:
            target = fresh_folder(config)
            try:
                return make(target)
            except Taken:  # Another process took the number meanwhile.
                continue

    @staticmethod
    def open(folder: Path | str) -> Run:
        """Open a run directory.

        Raises RunError for what is no run, one of another format, and one of whose files, of those
        that are written once, any is not as it was.
        """
        folder = expanded(folder)
        return Run(folder, read_config(folder))

    @contextmanager
    def undamaged(self, name: str) -> Iterator[None]:
        """Turn what goes wrong with reading one of this run's own files into a RunError."""
        try:
            yield
        except UNREADABLE as error:
            raise damaged(self.folder / name, error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against other processes, and remove what writers that were killed left.

        Files and folders that were not done, and checkpoints that were to go. Raises RunError when
        another process holds it; a process that dies lets go of it.
        """
        with locked(self.folder):
            remove_leftovers(self.folder)
            self._checkpoints.tidy(self._kept)
            yield

    def in_use(self) -> bool:
        """True while a process holds `locked()`."""
        return in_use(self.folder)

    @property
    def spool(self) -> Path:
        """Where replies of the round in progress lie. Made and emptied by the collector."""
        return self.folder / "spool"

    @property
    def next(self) -> Path:
        """Where the layers of the round in progress lie until they are a checkpoint."""
        return self.folder / "next"

    @property
    def resolved(self) -> Record:
        """The choices made by measurement or derivation, each of its type where it is there."""
        return read_resolved(self.folder)

    @property
    def data(self) -> Record:
        return read_table(self.folder / "data.json")

    @property
    def environment(self) -> Record:
        return read_table(self.folder / "environment.json")

    def trained(self) -> Trained:
        """What the clients of this run, and of what it began from, were trained on."""
        return read_trained(self.folder)

    @cached_property
    def parent(self) -> Record | None:
        """What the run began from; None for one that began at the bare base model."""
        return read_parent(self.folder)

    @property
    def start_round(self) -> int | None:
        """The round whose checkpoint is the state that the run began from; None without parent."""
        if self.parent is None:
            return None
        with self.undamaged("parent.json"):
            return whole(self.parent, "start")

    def write_results(self, results: Mapping[str, Any]) -> None:
        """The final scores, as results.json."""
        text, _ = with_check(results, indent=2)
        atomic_write(self.folder / "results.json", text + "\n")

    def read_results(self) -> Record | None:
        """The final scores, or None for a run that has not ended. Raises RunError for lost ones."""
        path = self.folder / "results.json"
        if not path.is_file():
            if self.events(Ended):
                again = f"make it again with: flexlora resume {self.folder}"
                raise RunError(
                    f"{path} is missing, though the run has ended; restore it, or {again}"
                )
            return None
        try:
            return checked(path.read_bytes())[0]
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error

    def ended(self) -> Ended | None:
        """What `read_results` holds without clients and predictions; None where it is None."""
        results = self.read_results()
        if results is None:
            return None
        with self.undamaged("results.json"):
            return Ended.of_results(str(self.folder), results)

    def append_event(self, event: Event) -> None:
        """Add one line to events.jsonl, which is on disk then if the event is durable."""
        self._logs["events"].append(event.to_json(), durable=event.durable)

    def append_metrics(self, record: RoundRecord) -> None:
        """Add one round's line to metrics.jsonl."""
        self._logs["metrics"].append(record.to_json())

    def append_spectra(self, record: Mapping[str, Any]) -> None:
        """Add one round's line to spectra.jsonl."""
        self._logs["spectra"].append(record)

    def read_spectra(self) -> list[Record]:
        """The validated rounds' singular values, as `spectra.spectra_record` makes them."""
        return self._logs["spectra"].records(self._stood("spectra"))

    def events(self, kind: type[E]) -> list[E]:
        """Those of this kind (`Event`: all that are known here), in the order they were told.

        Raises RunError naming a line of them that is damaged, and what is wrong with it.
        """

        def parse(record: Record) -> Event | None:
            wanted = kind is Event or record.get("event") == kind.name
            return Event.from_json(record) if wanted else None

        found = self._logs["events"].read(parse, self._stood("events"))
        return [event for event in found if isinstance(event, kind)]

    def read_events(self) -> list[Record]:
        """The lines of events.jsonl as they stand, for other tools."""
        return self._logs["events"].records(self._stood("events"))

    def records(self) -> list[RoundRecord]:
        """The rounds in order. Raises RunError naming a line that is damaged, and what is wrong."""
        return self._logs["metrics"].read(RoundRecord.from_json, self._stood("metrics"))

    def committed(self) -> list[RoundRecord]:
        """The rounds that a checkpoint stands behind: a resume would play any other again.

        Raises RunError where the line of one of them is gone.
        """
        rounds = self.checkpoints()  # Read first: a round's line is written before it.
        last = rounds[-1] if rounds else self.start_round or 0
        found = [record for record in self.records() if record.round <= last]
        wanted = range((self.start_round or 0) + 1, last + 1)
        for record, round in zip_longest(found, wanted):
            if record is None or record.round != round:
                what = f"round {round}" if round else f"{len(wanted)} rounds alone"
                raise RunError(f"{self.folder / 'metrics.jsonl'} has not {what}; {CURE}")
        return found

    def read_metrics(self) -> list[Record]:
        """The lines of metrics.jsonl as they stand, for other tools; `records` are the same."""
        return self._logs["metrics"].records(self._stood("metrics"))

    def truncate_log(self, round: int) -> None:
        """Drop what was logged for rounds after this one, and a last line that was cut short."""
        self.committed()
        for name, log in self._logs.items():
            log.truncate(round, self._stood(name))

    def write_checkpoint(
        self,
        round: int,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        best: int | None = None,
    ) -> None:
        """Write the state after a round, then remove all but the last `[run] checkpoints`, the best
        and the start.

        best: the round that validated best so far (None: none did). meta is anything JSON holds.
        """
        logs = {name: log.last() for name, log in self._logs.items()}
        self._checkpoints.write(round, tensors, meta, best=best, kept=self._kept, logs=logs)

    @property
    def _kept(self) -> tuple[int, ...]:
        return () if self.start_round is None else (self.start_round,)

    def step_back(self) -> None:
        """From here on, read as if checkpoints after the last whole one had never been written.

        Nothing is written. Where none is whole, who reads the last says what is wrong with it.
        """
        self._checkpoints.step_back()

    def set_aside_damaged(self) -> str:
        """Rename the checkpoints that `step_back` leaves out. "", or what is said of it, once.

        For who holds `locked()`: their rounds are played again.
        """
        gone = self._checkpoints.set_aside()
        if not gone:
            return ""
        rounds = self.checkpoints()
        what = " and ".join(wrong.rpartition("; ")[0] for _, wrong in gone)
        where = " and ".join(path.name for path, _ in gone)
        return (
            f"{what}: goes on from round {rounds[-1]}, the last whole checkpoint; what is damaged "
            f"lies in checkpoints/{where}, where nothing needs it"
        )

    def checkpoints(self) -> list[int]:
        """The rounds that have a checkpoint, in order."""
        return self._checkpoints.rounds()

    def load_checkpoint(self, round: int | str | None = None) -> Checkpoint | None:
        """(tensors, meta) of a round, "best", or "last" (also None); None where there is none.

        "best" is the last where no round was validated. Raises RunError for a damaged one, and for
        a run that has none though it came further than to the line of its first round.
        """
        found = self._checkpoints.load(round)
        if found is None and not self.checkpoints():
            begun = self.parent is not None or self.read_results() is not None
            if begun or len(self.records()) > 1:
                folder = self._checkpoints.folder
                scores_alone = (self.folder / "results.json").is_file() and not folder.is_dir()
                why = "a comparison keeps none of its tuning runs" if scores_alone else ""
                raise damaged(folder, why)
        return found

    def leave_scores(self) -> None:
        """Remove the checkpoints of a run that has ended, and with them the adapters: what it did
        and scored stays. Holds the run. Raises RunError for one that has not ended."""
        with self.locked():
            if self.read_results() is None:
                cure = f"end it with: flexlora resume {self.folder}"
                raise RunError(f"{self.folder} has not ended; {cure}")
            self._checkpoints.remove()

    def last_meta(self) -> Record:
        """The meta of the last checkpoint; empty where there is none."""
        return self._checkpoints.last_meta()

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        folder, run = self.folder / "checkpoints", file_digest(self.folder / NAME)
        return Checkpoints(folder, run, self.config.run.checkpoints)

    def _stood(self, name: str) -> str:
        """The check of a log's last line when the last checkpoint was made: it is there still."""
        return self._checkpoints.logs().get(name, "")


def fresh_folder(config: Config) -> Path:
    """`<run.out>/<name>-<n>`: the run's name (or its rule's), and one above the largest n there."""
    out, name = expanded(config.run.out), config.run.name or config.rule.label
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    names = (pattern.fullmatch(path.name) for path in out.iterdir()) if out.is_dir() else ()
    used = [int(match[1]) for match in names if match]
    return out / f"{name}-{max(used, default=0) + 1}"
