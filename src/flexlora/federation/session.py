"""A whole federation, from what is asked of it to what it leaves: prepared once, then played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from flexlora.config.config import Config
from flexlora.config.settings import rule_fingerprint, rule_of, screens_of
from flexlora.engines.memories import Memories
from flexlora.errors import ModelError, RunError
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.at_once import choose, resolved
from flexlora.federation.at_once import read as at_once_of
from flexlora.federation.collector import Plain
from flexlora.federation.continuing import Parent
from flexlora.federation.engine import (
    make_engine,
    require_begun,
    spare_memory,
    threads_of,
    workers_of,
)
from flexlora.federation.loop import Federation, last
from flexlora.federation.observers import Observer, Observers, Recorder, Silent, started
from flexlora.federation.preview import Preview, forecast
from flexlora.federation.scoring import final_rows, validate
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup, prepare
from flexlora.federation.starts import Start, warm_start
from flexlora.federation.trackers import Trackers, require_trackers
from flexlora.models import devices, find_device
from flexlora.rules import State
from flexlora.runs.committed import Committed
from flexlora.runs.deciding import decide
from flexlora.runs.events import Ended, Halved
from flexlora.runs.progress import Progress
from flexlora.runs.readout import load_state
from flexlora.runs.results import Result
from flexlora.runs.run_directory import Record, Run
from flexlora.training import CohortSize

MEMORY = "memory"  # Of the clients, in a run's folder; only where a rule has them remember.


class Session:
    """One federation: of a config, of a run that is continued, or of one that goes on.

    What can be wrong with the input is an InputError as early as it can be told: in the
    constructors what the config says, in `setup` and `start` what model, data and parent say,
    before `play` writes anything.
    """

    def __init__(
        self,
        config: Config,
        *,
        like: Setup | None = None,
        parent: Parent | None = None,
        resumed: Run | None = None,
    ) -> None:
        """Use `of`, `continuing` or `resuming`."""
        self.config = config
        self._like = like
        self._parent = parent
        self._resumed = resumed
        self.rule = rule_of(config.rule)
        self.screens = screens_of(config.screens)
        require_trackers(config.run.trackers)

    @staticmethod
    def of(config: Config, like: Setup | None = None) -> Session:
        """A new federation. like: a setup whose model and examples are used where they fit."""
        return Session(config, like=like)

    @staticmethod
    def continuing(
        run: Path | str,
        tables: Mapping[str, Mapping[str, Any]] | None = None,
        overrides: Sequence[str] = (),
        *,
        round: int | str = "last",
        like: Setup | None = None,
    ) -> Session:
        """A new run that goes on where `run` stood after a round; that one stays as it is.

        tables, overrides: changes of its config, as for `Parent.config_with`. With nothing but
        federation.rounds raised, the last state equals that of one long run, bit for bit (in
        process, on the CPU).
        """
        parent = Parent.open(run, round)
        return Session(parent.config_with(tables or {}, overrides), like=like, parent=parent)

    @staticmethod
    def resuming(run: Path | str) -> Session:
        """The same run after any stop. Raises RunError for a folder that is no run."""
        opened = Run.open(run)
        return Session(opened.config, resumed=opened)

    @cached_property
    def setup(self) -> Setup:
        """Model, data, clients and their ranks, with the threads and the device that fit the run.

        Raises RunError where a resumed run's data or device is not what it was.
        """
        if self._resumed is not None:
            with self._resumed.undamaged("resolved.toml"):
                resolved = self._resumed.resolved
                threads, device = int(resolved["threads"]), str(resolved["device"])
            _require_here(self._resumed, device)
            setup = prepare(self.config, threads=threads, device=device)
            _require_unchanged(self._resumed, setup)
            return setup
        # Other numbers of threads round differently.
        threads_before = None if self._parent is None else self._parent.threads
        threads_now = self.config.run.threads or threads_before
        return prepare(self.config, self._like, threads=threads_now)

    @cached_property
    def start(self) -> Start | None:
        """What it begins from: the parent's state, or an adapter; None for the bare base."""
        if self._resumed is not None:
            return None  # It is in the run.
        if self._parent is not None:
            return self._parent.start(self.setup, self.rule)
        return warm_start(self.setup, self.rule)

    def preview(self) -> Preview:
        """What `play` would do: who holds what, at which rank, and what is sent.

        The model's weights are loaded only where something is to be compared with them.
        """
        if self._parent is None and self.config.model.init_from is None:
            setup = prepare(self.config, self._like, outline=True)
            warm_start(setup, self.rule)  # Options that need a start and have none end here.
            return Preview(setup, forecast(setup, self.rule), None)
        start = self.start
        parent = None if start is None else start.parent
        return Preview(self.setup, forecast(self.setup, self.rule), parent)

    def play(self, folder: Path | str | None = None, *, observer: Observer | None = None) -> Result:
        """Play all rounds that are left, score the unseen clients, and leave it in a folder.

        folder: the run directory to make (default: a new one under `run.out`). Raises RoundError
        if no client of a round replies.
        """
        require_begun()
        spare_memory(self.config)
        run = self._resumed or self._made(folder)
        recorder = Recorder(run, observer or Silent())
        trackers = Trackers(self.config.run.trackers, recorder.told)
        watching = Observers(recorder, trackers)
        with run.locked(), closing(trackers):
            return self._play(run, watching)

    def _made(self, folder: Path | str | None) -> Run:
        start, at_once = self.start, self._at_once()
        run = Run.create(
            self.config,
            folder,
            resolved=_resolved(self.setup) | resolved(at_once),
            data=described(self.setup),
            parent=start.parent if start else None,
            start=start.checkpoint() if start else None,
        )
        if self.rule.traits.memory and self._parent is not None:
            theirs = self._parent.run.folder / MEMORY
            Memories(run.folder / MEMORY).take_over(theirs, self._parent.state.round)
        return run

    def _at_once(self) -> CohortSize:
        if self._parent is not None and self.config.run.clients_at_once == "auto":
            return self._parent.at_once()
        return choose(self.setup, self.rule)

    def _play(self, run: Run, observer: Observer) -> Result:
        setup, rule = self.setup, self.rule
        sender = Sender(rule, setup.settings.schedule, setup.streams)
        begin = sender.begin(setup.spec)
        stands = last(run) or Committed(begin, setup.roster.fresh_store(), Progress())

        def halved(round: int, clients: int) -> None:
            observer.told(Halved(round, clients))

        def validated(state: State) -> Record:
            scores = validate(setup, rule.learned(state))
            return {} if scores is None else scores.mean().to_json()

        engine = make_engine(
            setup, rule, cohort=at_once_of(run), halved=halved, memory=run.folder / MEMORY
        )
        with closing(engine):
            federation = Federation(
                sender=sender,
                stands=stands,
                transport=engine,
                collector=Plain(run.spool, rule),
                screens=self.screens,
                run=run,
                validate=validated,
                decide=partial(decide, setup.config),
                observer=observer,
            )
            observer.told(started(run))
            for _ in federation.rounds():
                pass
            result = self._scored(run, federation, observer)
            run.write_results(result.to_json())
            observer.told(Ended.of(result))
        return result

    def _scored(self, run: Run, federation: Federation, observer: Observer) -> Result:
        best = federation.progress.best_round
        state = load_state(run, best) if best else federation.state
        rows = []
        if self.config.evaluation.unseen:
            began = None if run.start_round is None else load_state(run, run.start_round)
            rows = final_rows(self.setup, self.rule, state, began, observer)
        return Result.of(run.folder, self.rule.name, state.round, rows, run.records())


def run(
    config: Config,
    folder: Path | str | None = None,
    *,
    observer: Observer | None = None,
    setup: Setup | None = None,
) -> Result:
    """Run one federation and score it on the unseen clients.

    folder: the run directory to make (default: a new one under `run.out`); setup: one that was
    `prepare`d before, perhaps from another config: what this one says the same of is not made anew.
    Raises InputErrors before anything is written, RoundError if no client of a round replies.
    """
    return Session.of(config, setup).play(folder, observer=observer)


def resume(folder: Path | str, *, observer: Observer | None = None) -> Result:
    """Go on after any stop: the same bits, in process on the CPU, as if there had been none.

    The model runs where it ran. Raises RunError for a folder that is no run, for data that has
    changed since, and on a machine without that device.
    """
    return Session.resuming(folder).play(observer=observer)


def continue_run(
    parent: Path | str,
    changes: Mapping[str, Mapping[str, Any]],
    folder: Path | str | None = None,
    *,
    round: int | str = "last",
    observer: Observer | None = None,
) -> Result:
    """A new run that goes on where `parent` stood after a round; the parent stays as it is.

    changes: tables of the parent's config, as for `make_config`: {"federation": {"rounds": 80}};
    federation.rounds counts from the first round of all and must exceed the round that is
    continued. folder: as for `run`; round: "last", "best" or the number of a kept checkpoint.
    State, Δ, client ranks and held versions are the parent's; the best round so far and patience
    begin anew. With nothing but federation.rounds raised, the last state equals that of one long
    run, bit for bit (in process, on the CPU). Another federation.seed splits the data anew: what
    was trained on may then be held out. Raises as `Parent` says, and as `run` does.
    """
    session = Session.continuing(parent, changes, round=round)
    return session.play(folder, observer=observer)


def described(setup: Setup) -> dict[str, Any]:
    """For data.json: what was read, and of which content the rule's file is ("" without one)."""
    return {**setup.describe(), "rule_fingerprint": rule_fingerprint(setup.config.rule)}


def _require_here(opened: Run, device: str) -> None:
    try:
        find_device(device)
    except ModelError as error:
        raise RunError(
            f"{opened.folder} ran on {device}, and this machine has {', '.join(devices())}; resume "
            f"it where there is one, or go on here with flexlora continue {opened.folder} "
            "--set model.device=auto"
        ) from error


def _require_unchanged(opened: Run, setup: Setup) -> None:
    now = described(setup)
    for key, thing in (
        ("rule_fingerprint", "file of the rule"),
        ("fingerprint", "data"),
        ("model_fingerprint", "base model"),
        ("encoding_fingerprint", "tokenizer, prompt or partition"),
    ):
        with opened.undamaged("data.json"):
            was = str(opened.data[key])
        if was != now[key]:
            raise RunError(
                f"the {thing} of {opened.folder} has changed since the run began (fingerprint "
                f"{now[key][:12]}, was {was[:12]}); restore it, or start a new run"
            )


def _resolved(setup: Setup) -> dict[str, Any]:
    """What was derived rather than written in the config."""
    roster = setup.roster
    return {
        "device": str(setup.model.device),
        "threads": torch.get_num_threads(),
        "workers": workers_of(setup),
        "worker_threads": threads_of(setup),
        "clients_per_round": setup.settings.schedule.clients,
        "layers": len(setup.model.layers),
        "fan_in_fan_out": setup.model.fan_in_fan_out,
        "clients": roster.counts(),
        "ranks": {name: str(roster.mix.types[name]) for name in roster.ranks},
        # Of metrics out of files, too: nobody who reads the run has to have those.
        "higher_is_better": {
            metric.name: metric.higher_is_better
            for metric in resolve_metrics(setup.settings.final.metrics)
        },
    }
