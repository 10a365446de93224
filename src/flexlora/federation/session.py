"""A whole federation, from what is asked of it to what it leaves: prepared once, then played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from flexlora.config.config import Config
from flexlora.config.settings import (
    extras_of,
    played_rule,
    played_screens,
    require_error_budget,
)
from flexlora.config.sparse import sparse_rounds
from flexlora.engines.faulty import rehearsed
from flexlora.engines.memories import Memories
from flexlora.errors import ConfigError
from flexlora.evaluation import MeanScore, get_metric
from flexlora.extras import require_extras
from flexlora.federation.as_it_was import (
    day_of,
    derived,
    described,
    elsewhere,
    require_here,
    require_unchanged,
    types_of,
)
from flexlora.federation.at_once import read as at_once_of
from flexlora.federation.at_once import resolved
from flexlora.federation.clock import clock_of
from flexlora.federation.code_kept import keep_code
from flexlora.federation.collector import Plain
from flexlora.federation.continuing import Parent
from flexlora.federation.engine import require_begun, spare_memory
from flexlora.federation.hostile import attacked
from flexlora.federation.kept import kept_by, validate_kept
from flexlora.federation.loop import Federation, last
from flexlora.federation.observers import Observer, Observers, Recorder, Silent, started
from flexlora.federation.place import HERE, Place
from flexlora.federation.preview import Preview, forecast
from flexlora.federation.rows_kept import hold_kept_rows, keep_rows
from flexlora.federation.scoring import final_rows, validate
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup, prepare
from flexlora.federation.sparse_stage import sparse_stage
from flexlora.federation.starts import Start, trained_before, warm_start
from flexlora.federation.threads import use_threads
from flexlora.federation.tracker_kinds import require_trackers
from flexlora.federation.trackers import Trackers
from flexlora.formats.atomic import require_free
from flexlora.formats.json_fields import text, whole
from flexlora.rules import State
from flexlora.rules.promises import require_learned
from flexlora.runs.committed import Committed
from flexlora.runs.deciding import decide
from flexlora.runs.events import Ended, Halved, Noted
from flexlora.runs.progress import Progress
from flexlora.runs.readout import load_state, require_checkpoint
from flexlora.runs.results import Result
from flexlora.runs.run_directory import Record, Run
from flexlora.tasks.trained import UNTRAINED, Trained
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
        place: Place = HERE,
    ) -> None:
        """Use `of`, `continuing` or `resuming`."""
        self.config = config
        self._like = like
        self._parent = parent
        self._resumed = resumed
        self._place = place
        self.rule = played_rule(config)
        self.screens = played_screens(config)
        self.sparse_rounds = sparse_rounds(config)
        require_error_budget(config, self.rule)
        require_extras(extras_of(config))
        require_trackers(config.run.trackers)

    @staticmethod
    def of(config: Config, like: Setup | None = None, *, place: Place = HERE) -> Session:
        """A new federation. like: a setup whose model and examples are used where they fit;
        place: where its clients are."""
        return Session(config, like=like, place=place)

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
        hold_kept_rows(parent.run)
        return Session(parent.config_with(tables or {}, overrides), like=like, parent=parent)

    @staticmethod
    def resuming(run: Path | str, *, like: Setup | None = None, place: Place = HERE) -> Session:
        """The same run after any stop, from its last whole checkpoint. like, place: as of `of`.

        Raises RunError for what is no run.
        """
        opened = Run.open(run)
        opened.step_back()
        hold_kept_rows(opened)
        return Session(opened.config, like=like, resumed=opened, place=place)

    @cached_property
    def setup(self) -> Setup:
        """Model, data, clients and their ranks, with the threads and the device that fit the run.

        Raises RunError where a resumed run's data or device is not what it was.
        """
        if self._resumed is not None:
            with self._resumed.undamaged("resolved.toml"):
                resolved = self._resumed.resolved
                threads, device = whole(resolved, "threads"), text(resolved, "device")
            require_here(self._resumed, device)
            setup = self._place.prepare(
                self.config,
                self._like,
                threads=threads,
                device=device,
                today=day_of(self._resumed),
                types=types_of(self._resumed),
                before=self._before,
            )
            require_unchanged(self._resumed, setup)
            return setup
        # Other numbers of threads round differently.
        threads_before = None if self._parent is None else self._parent.threads
        threads_now = self.config.run.threads or threads_before
        types = None if self._parent is None else self._parent.types(self.config.clients)
        return self._place.prepare(
            self.config,
            self._like,
            threads=threads_now,
            device=None,
            today=self._day,
            types=types,
            before=self._before,
        )

    @property
    def _day(self) -> date | None:
        """What a parent's chats were told of the date; None for the day it is."""
        return None if self._parent is None else day_of(self._parent.run)

    @property
    def _before(self) -> Trained:
        """What was trained on by what it begins from."""
        if self._resumed is not None:  # It took that over, beside what it trains on itself.
            return UNTRAINED if self._resumed.parent is None else self._resumed.trained()
        if self._parent is not None:
            return self._parent.run.trained()
        return trained_before(self.config)

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

        The model's weights are loaded only where something is to be compared with them. Of a run
        that goes on: what all of it does.
        """
        if self._resumed is not None:
            return self._preview(self.setup, self._resumed.parent)
        if self._parent is None and self.config.model.init_from is None:
            setup = prepare(self.config, self._like, outline=True)
            warm_start(setup, self.rule)  # Options that need a start and have none end here.
            return self._preview(setup, None)
        start = self.start
        parent = None if start is None else start.parent
        return self._preview(self.setup, parent)

    def _preview(self, setup: Setup, parent: Record | None) -> Preview:
        told = forecast(setup, self.rule, self.sparse_rounds)
        return Preview(setup, told, parent, self.rule)

    def play(self, folder: Path | str | None = None, *, observer: Observer | None = None) -> Result:
        """Play all rounds that are left, score the unseen examples, and leave it in a folder.

        folder: the run directory to make (default: a new one under `run.out`); ConfigError where a
        run goes on, which does so in its own. Raises RunError, before anything is loaded, for one
        that exists, and RoundError if no client of a round replies.
        """
        if folder is not None:
            if self._resumed is not None:
                raise ConfigError(
                    f"{self._resumed.folder} goes on where it is, not in {folder}; leave that "
                    "out, or make a new run of it with flexlora continue"
                )
            require_free(folder)
        require_begun()
        spare_memory(self.config)
        use_threads(self.setup.threads)  # Another setup may have been prepared since.
        run = self._resumed or self._made(folder)
        recorder = Recorder(run, observer or Silent())
        trackers = Trackers(self.config.run.trackers, recorder.told)
        watching = Observers(recorder, trackers)
        with run.locked(), closing(trackers):
            return self._play(run, watching)

    def _made(self, folder: Path | str | None) -> Run:
        start, at_once = self.start, self._at_once()
        return Run.create(
            self.config,
            folder,
            resolved=derived(self.setup, self.rule) | resolved(at_once) | self._place.resolved(),
            data=described(self.setup),
            trained=self.setup.examples.trained,
            parent=start.parent if start else None,
            start=start.checkpoint() if start else None,
            bring=self._bring,
        )

    def _bring(self, folder: Path) -> None:
        """Rows that are held, own code, and what the clients of a parent remember, go into the new
        run."""
        keep_rows(self.config, folder)
        keep_code(self.config, folder)
        if self._parent is not None and self.start is not None:
            theirs = Memories(self._parent.run.folder / MEMORY)
            Memories(folder / MEMORY).take_over(theirs, self.start.store.answered)

    def _at_once(self) -> CohortSize:
        """A continued run's is its parent's, unless it asks for another."""
        asked = self.config.run.clients_at_once
        if self._parent is not None:
            as_before = asked == self._parent.run.config.run.clients_at_once
            if asked == "auto" or (asked == "measured" and as_before):
                return self._parent.at_once()
        return self._place.at_once(self.setup, self.rule)

    def _play(self, run: Run, observer: Observer) -> Result:
        setup, rule = self.setup, self.rule
        sender = Sender(rule, setup.settings.schedule, setup.streams, setup.examples.scorers)
        known, memories = setup.known(), Memories(run.folder / MEMORY)
        sparse = sparse_stage(sender, self.sparse_rounds, run.spool, known)
        begin = sender.begin(setup.spec)
        if sparse is not None:
            begin = sparse.begin(begin)
        evaluation = setup.config.evaluation
        metric = get_metric(evaluation.metric)
        stepped_back = run.set_aside_damaged()
        stands = last(run) or Committed(begin, setup.roster.fresh_store(), Progress())

        def halved(round: int, clients: int) -> None:
            observer.told(Halved(round, clients))

        def noted(words: str) -> None:
            observer.told(Noted(words))

        def validated(state: State) -> MeanScore | None:
            if rule.traits.learned == "clients":
                scores = validate_kept(setup, rule, state, kept_by(memories, stands.store))
            else:
                scores = validate(setup, require_learned(rule, rule.learned(state), state.spec))
            return None if scores is None else scores.mean()

        engine = self._place.engine(
            setup,
            rule,
            cohort=at_once_of(run),
            halved=halved,
            memory=run.folder / MEMORY,
            noted=noted,
        )
        engine = attacked(engine, setup.config, setup.examples.hostile)
        engine = rehearsed(engine, self.config.faults)
        with closing(engine):
            federation = Federation(
                sender=sender,
                stands=stands,
                transport=engine,
                collector=Plain(run.spool, rule, known),
                screens=self.screens,
                run=run,
                validate=validated,
                decide=partial(decide, metric.name, metric.higher_is_better, evaluation.decide_by),
                clients_decide=metric.name if evaluation.decide_by == "clients" else "",
                observer=observer,
                known=known,
                sparse=sparse,
                in_time=self._place.in_time,
                clock=None if self._place.in_time else clock_of(setup, rule),
            )
            observer.told(started(run))
            for allotted in () if setup.fleet is None else setup.fleet.allotted:
                observer.told(allotted)
            moved = "" if self._resumed is None else elsewhere(run)
            for words in (stepped_back, moved, self.config.faults.words()):
                if words:
                    observer.told(Noted(words))
            for _ in federation.rounds():
                pass
            result = self._scored(run, federation, observer)
            run.write_results(result.to_json())
            observer.told(Ended.of(result))
        return result

    def _scored(self, run: Run, federation: Federation, observer: Observer) -> Result:
        best = federation.progress.best_round
        state, store = federation.state, federation.store
        if best:
            stood = Committed.of(run, require_checkpoint(run, best))
            state, store = stood.state, stood.store
        rows = []
        if self.config.evaluation.unseen:
            began = None if run.start_round is None else load_state(run, run.start_round)
            kept = kept_by(Memories(run.folder / MEMORY), store)
            rows = final_rows(self.setup, self.rule, state, began, observer, kept)
        return Result.of(run.folder, self.rule.name, state.round, rows, run.records())
