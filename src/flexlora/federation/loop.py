"""The one loop: sample → send → exchange → collect → combine → evaluate → commit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from flexlora.engines.jobs import Transport
from flexlora.evaluation import MeanScore, get_metric
from flexlora.federation.admission import Collected
from flexlora.federation.asking import Asking
from flexlora.federation.clock import Clock
from flexlora.federation.collector import Collector
from flexlora.federation.gathering import Gathered, Gathering
from flexlora.federation.levels import figure, levels_after, told_by
from flexlora.federation.observers import Observer
from flexlora.federation.on_clients import collect_scores, summary
from flexlora.federation.outcomes import NOTHING, Known
from flexlora.federation.resting import rest
from flexlora.federation.sending import Sender
from flexlora.federation.sparse_stage import SparseStage
from flexlora.federation.stages import AdapterStage, S, Stage, counted
from flexlora.rules import State
from flexlora.runs.committed import Committed
from flexlora.runs.events import Failed, Noted, RoundEnded
from flexlora.runs.packed_state import unpack_layers
from flexlora.runs.records import Cut, OnClients, RoundRecord
from flexlora.runs.run_directory import Run
from flexlora.runs.spectra import spectra_record
from flexlora.screens import Screen

Validate = Callable[[State], MeanScore | None]
Decide = Callable[[RoundRecord], float]


def last(run: Run) -> Committed | None:
    """Where a run stands: at its last checkpoint, if it has one; what was logged after it goes."""
    shutil.rmtree(run.next, ignore_errors=True)
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        run.truncate_log(0)
        return None
    stands = Committed.of(run, checkpoint)
    run.truncate_log(stands.state.round)
    return stands


class Federation:
    """One federation, from round to round.

    collector: what makes contributions of replies; validate: the server's own scores of a state, or
    nothing; decide: from a validated round's record to the value that the best round minimises.
    clients_decide: the metric by which they do, in the eyes of `decide`; "" where they do not.
    screens: what updates pass between collecting and weighing, in order; known: of the clients,
    which bounds what their scores say of themselves (what their replies say is the collector's).
    sparse: the stage before adapters are trained, if there is one; clock: of the clients' devices,
    if they have any; in_time: as of `Gathering`. Raises ConfigError for a rule or screen that needs
    more than this collector gives.

    stands: where it goes on from: the beginning, or what `last` found in the run. Every random draw
    comes from a stream named by its round, and everything else that outlives a round is in the
    checkpoint: going on from there gives the bits of an unbroken run.
    """

    def __init__(
        self,
        *,
        sender: Sender,
        stands: Committed,
        transport: Transport,
        collector: Collector,
        screens: Sequence[Screen] = (),
        run: Run,
        validate: Validate,
        decide: Decide,
        clients_decide: str = "",
        observer: Observer,
        known: Known = NOTHING,
        sparse: SparseStage | None = None,
        in_time: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.sender = sender
        self.rule = sender.rule
        self.schedule = sender.schedule
        self.streams = sender.streams
        self.state = stands.state
        self.store = stands.store
        self.progress = stands.progress
        self.transport = transport
        self.adapters = AdapterStage(sender, collector, screens, run)
        self.sparse = sparse
        self.run = run
        self.validate = validate
        self.decide = decide
        self.clients_decide = clients_decide
        self.observer = observer
        self.known = known
        self.in_time = in_time
        self.asking = Asking(observer, clock)

    @property
    def finished(self) -> bool:
        return self.state.round >= self.schedule.rounds or bool(self._exhausted)

    @property
    def _exhausted(self) -> str:
        return self.progress.exhausted(self.schedule.patience)

    def rounds(self) -> Iterator[RoundRecord]:
        """Play the rounds that are left; yield each one's record after it is committed."""
        while not self.finished:
            yield self.play()
        played, planned = self.state.round, self.schedule.rounds
        if played < planned:
            self.observer.told(Noted(f"ends after round {played} of {planned}: {self._exhausted}"))

    def play(self) -> RoundRecord:
        """One round. Raises RoundError when too few clients count in it."""
        if self.sparse is not None and self.sparse.goes_on(self.state):
            return self._play(self.sparse)
        return self._play(self.adapters)

    def _play(self, stage: Stage[S]) -> RoundRecord:
        round = self.state.round + 1
        started = time.perf_counter()
        resting = set(self.store.resting)
        gathering = Gathering(
            self.sender,
            self.transport,
            self.run,
            self.observer,
            self.asking,
            in_time=self.in_time,
        )
        gathered = gathering.gather(round, stage, self.state, self.store)
        collected = gathered.collected
        state, cut = stage.combine(self.state, gathered.asked, gathered.passed)
        stage.remember(self.state, self.store, gathered.answered, collected)
        rested = rest(self.store, self.schedule, round, gathered.tried.answers)
        combined = time.perf_counter()
        seconds = {"clients": gathered.trained - started, "combine": combined - gathered.trained}
        record = self._record(round, gathered, cut, seconds)
        record = replace(record, resting=tuple(sorted(resting - gathered.tried.asked)))
        record = replace(record, sparse=stage.sparse, left_out=gathered.asked.left_out)
        for event in rested:
            self.observer.told(event)
        if self.schedule.validates(round):
            record = self._validate(state, collected, record)
        self.state = state
        self._commit(record)
        self.observer.told(RoundEnded(record))
        return record

    def _validate(self, state: State, collected: Collected, record: RoundRecord) -> RoundRecord:
        """Score the new state at the server and on clients, and log its spectra."""
        started = time.perf_counter()
        told: dict[str, float] = {}
        record = replace(record, validation=self.validate(state))
        validated = time.perf_counter()
        seconds = {"validate": validated - started}
        if self.schedule.evaluating_clients:
            tuned = None if record.sparse else collected
            on_clients, told = self._evaluate_on_clients(state, tuned)
            record = replace(record, on_clients=on_clients)
            seconds["evaluate_on_clients"] = time.perf_counter() - validated
        evaluated = time.perf_counter()
        self.run.append_spectra(spectra_record(self.rule, state))
        self.progress = self.progress.after(state.round, self.decide(record))
        best = self.progress.best_round == state.round
        at = None if record.on_clients is None else record.on_clients.decisive
        levels = levels_after(told, self.progress.levels, at, best=best)
        self.progress = replace(self.progress, levels=levels)
        if record.sparse:  # Patience is for adapters: without them no run is over.
            self.progress = replace(self.progress, stale=0)
        seconds["spectra"] = time.perf_counter() - evaluated
        return replace(record, seconds={**record.seconds, **seconds})

    def _evaluate_on_clients(
        self, state: State, collected: Collected | None
    ) -> tuple[OnClients, dict[str, float]]:
        """And, where they decide, what each told. collected: whose trained adapters were scored,
        where they trained any."""
        round = state.round
        jobs = self.sender.evaluation(state, self.store)
        scores, failures = collect_scores(jobs, self.transport.exchange(jobs), self.known)
        for failure in failures:
            kind = "stray" if failure.kind == "stray" else "evaluate"
            self.observer.told(Failed(round, failure.client, failure.reason, kind))
        tuned = None
        if self.schedule.score_trained and collected is not None:
            replies = (collected.replies[client] for client in sorted(collected.replies))
            tuned = summary([r.score for r in replies if r.score is not None])
        bytes_down = 0 if self.rule.traits.alone else sum(job.bytes_down for job in jobs)
        failed = sum(failure.kind != "stray" for failure in failures)
        told = told_by(scores, self.clients_decide) if self.clients_decide else {}
        decisive = figure(told, self.progress.levels, self._best_figure)
        return OnClients(summary(scores), tuned, failed, bytes_down, decisive), told

    @property
    def _best_figure(self) -> float:
        """What the clients came to in the best round so far, where they decide."""
        best = self.progress.best
        higher = bool(self.clients_decide) and get_metric(self.clients_decide).higher_is_better
        return -best if higher else best

    def _record(
        self, round: int, gathered: Gathered[S], cut: Cut | None, seconds: Mapping[str, float]
    ) -> RoundRecord:
        collected, tried, passed = gathered.collected, gathered.tried, gathered.passed
        replies = collected.replies
        examples = sum(reply.examples for reply in replies.values())
        # In one order, whoever was first: sums of floats depend on it.
        ordered = [replies[client] for client in sorted(replies)]
        loss = sum(reply.loss * reply.examples for reply in ordered) / max(examples, 1)
        return RoundRecord(
            round=round,
            learning_rate=self.schedule.recipe_for(round).learning_rate,
            clients=tuple(sorted(replies)),
            types=counted(self.store.types[client] for client in replies),
            failures=sum(map(len, tried.missing)),
            train_loss=loss,
            examples=examples,
            tokens=sum(reply.tokens for reply in replies.values()),
            bytes_down=tried.bytes_down,
            bytes_up=tried.bytes_up,
            seconds=seconds,
            cut=cut,
            screened=passed.judged,
            agreement=passed.agreement,
            missing=tuple(tried.missing) if any(tried.missing) else (),
            spare=tuple(sorted(collected.spare)),
            simulated=tried.simulated,
            back=tuple(reply.client for reply in ordered if reply.back),
            wire_seconds=max(
                (x.wire_seconds for x in ordered if x.wire_seconds is not None), default=None
            ),
            peak_bytes=max(
                (x.peak_bytes for x in ordered if x.peak_bytes is not None), default=None
            ),
        )

    def _commit(self, record: RoundRecord) -> None:
        self.run.append_metrics(record)
        stands = Committed(self.state, self.store, self.progress)
        self.run.write_checkpoint(
            self.state.round, *stands.checkpoint(), best=self.progress.best_round or None
        )
        kept = self.run.load_checkpoint(self.state.round)
        assert kept is not None
        self.state = replace(self.state, layers=unpack_layers(kept[0]))
        shutil.rmtree(self.run.next, ignore_errors=True)
