"""The one loop: sample → send → exchange → collect → combine → evaluate → commit."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from flexlora.engines.jobs import Failure, Reply, Transport
from flexlora.errors import RoundError
from flexlora.evaluation import MeanScore
from flexlora.federation.admission import Collected
from flexlora.federation.collector import Collector, require_collectable
from flexlora.federation.observers import Observer
from flexlora.federation.on_clients import collect_scores, summary
from flexlora.federation.outcomes import NOTHING, Known
from flexlora.federation.screening import Passed, screened
from flexlora.federation.sending import Sender, Sending
from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.lowrank import Certificate
from flexlora.rules import Combined, State
from flexlora.rules.promises import require_combined
from flexlora.runs.committed import Committed
from flexlora.runs.events import Event, Failed, Replied, RoundBegun, RoundEnded
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
    screens: what updates pass between collecting and weighing, in order; known: of the clients,
    which bounds what their scores say of themselves (what their replies say is the collector's).
    Raises ConfigError for a rule or screen that needs more than this collector gives.

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
        observer: Observer,
        known: Known = NOTHING,
    ) -> None:
        self.sender = sender
        self.rule = sender.rule
        self.schedule = sender.schedule
        self.streams = sender.streams
        self.state = stands.state
        self.store = stands.store
        self.progress = stands.progress
        self.transport = transport
        self.collector = collector
        self.screens = screens
        self.run = run
        self.validate = validate
        self.decide = decide
        self.observer = observer
        self.known = known
        require_collectable(self.rule, collector, screens, agreement=self.schedule.agreement)

    @property
    def finished(self) -> bool:
        patience = self.schedule.patience
        exhausted = patience > 0 and self.progress.stale >= patience
        return self.state.round >= self.schedule.rounds or exhausted

    def rounds(self) -> Iterator[RoundRecord]:
        """Play the rounds that are left; yield each one's record after it is committed."""
        while not self.finished:
            yield self.play()

    def play(self) -> RoundRecord:
        """One round. Raises RoundError when no client gave a usable reply."""
        round = self.state.round + 1
        started = time.perf_counter()
        sending = self.sender.training(self.state, self.store, None, self.run.checkpoints())
        self.observer.told(RoundBegun(round, tuple(job.client for job in sending.jobs)))
        collected = self._collect(round, sending)
        trained, answered = time.perf_counter(), list(collected.ranks)
        passed = self._screen(round, sending, collected)
        state, cut = self._combine(round, sending, passed)
        self._remember(round, answered, collected.ranks)
        combined = time.perf_counter()
        seconds = {"clients": trained - started, "combine": combined - trained}
        record = self._record(round, sending, collected, cut, seconds)
        record = replace(record, screened=passed.judged, agreement=passed.agreement)
        if self.schedule.validates(round):
            record = self._validate(state, collected, record)
        self.state = state
        self._commit(record)
        self.observer.told(RoundEnded(record))
        return record

    def _validate(self, state: State, collected: Collected, record: RoundRecord) -> RoundRecord:
        """Score the new state at the server and on clients, and log its spectra."""
        started = time.perf_counter()
        record = replace(record, validation=self.validate(state))
        validated = time.perf_counter()
        seconds = {"validate": validated - started}
        if self.schedule.evaluating_clients:
            record = replace(record, on_clients=self._evaluate_on_clients(state, collected))
            seconds["evaluate_on_clients"] = time.perf_counter() - validated
        evaluated = time.perf_counter()
        self.run.append_spectra(spectra_record(self.rule, state))
        self.progress = self.progress.after(state.round, self.decide(record))
        seconds["spectra"] = time.perf_counter() - evaluated
        return replace(record, seconds={**record.seconds, **seconds})

    def _evaluate_on_clients(self, state: State, collected: Collected) -> OnClients:
        round = state.round
        jobs = self.sender.evaluation(state, self.store)
        scores, failures = collect_scores(jobs, self.transport.exchange(jobs), self.known)
        for failure in failures:
            self.observer.told(Failed(round, failure.client, failure.reason, "evaluate"))
        tuned = None
        if self.schedule.score_trained:
            replies = (collected.replies[client] for client in sorted(collected.replies))
            tuned = summary([r.score for r in replies if r.score is not None])
        bytes_down = 0 if self.rule.traits.alone else sum(job.bytes_down for job in jobs)
        return OnClients(summary(scores), tuned, len(failures), bytes_down)

    def _came(self, round: int, outcome: Reply | Failure) -> Event:
        """What is told of an answer: never the update itself."""
        if isinstance(outcome, Failure):
            return Failed(round, outcome.client, outcome.reason)
        return Replied(
            round=round,
            client=outcome.client,
            type=self.store.types[outcome.client],
            examples=outcome.examples,
            tokens=outcome.tokens,
            loss=outcome.loss,
            seconds=outcome.seconds,
            bytes_up=0 if self.rule.traits.alone else len(outcome.payload),
        )

    def _collect(self, round: int, sending: Sending) -> Collected:
        collected = Collected()
        replies = self.transport.exchange(sending.jobs)
        for outcome, so_far in self.collector.collect(sending.jobs, replies, sending.sent):
            collected = so_far
            self.observer.told(self._came(round, outcome))
        if not collected.summaries:
            first = collected.failures[0]
            raise RoundError(
                f"round {round}: none of {len(sending.jobs)} clients gave a usable reply; the "
                f"first reason, of client {first.client}: {first.reason}"
            )
        return collected

    def _screen(self, round: int, sending: Sending, collected: Collected) -> Passed:
        """Who passes with what weight; whom a screen leaves out is a failure of this round."""
        layers = [layer.name for layer in self.state.spec.layers]
        passed = screened(
            self.screens,
            self.rule,
            self.collector,
            collected,
            sending.sent,
            layers,
            self.schedule.norm_limit,
            self.schedule.agreement,
        )
        jobs = {job.client: job.id for job in sending.jobs}
        for client, reason in passed.left_out.items():
            collected.leave_out(Failure(jobs[client], client, reason))
            self.observer.told(Failed(round, client, reason, "screen"))
        if not passed.weights:
            raise RoundError(f"round {round}: the screens left no client; loosen [screens]")
        return passed

    def _combine(self, round: int, sending: Sending, passed: Passed) -> tuple[State, Cut | None]:
        """The state after the round, layer by layer, and the record of what was cut off it."""
        generator = self.streams.generator("combine", round)
        layers: dict[str, Combined] = {}
        shutil.rmtree(self.run.next, ignore_errors=True)
        for index, layer in enumerate(self.state.spec.at(round, generator)):
            contributions = self.collector.contributions(
                layer.name, passed.weights, sending.sent, passed.shrinks
            )
            combined = self.rule.combine(layer, self.state.layers[layer.name], contributions)
            require_combined(self.rule, combined, layer)
            # A layer that is done waits on disk: memory is one layer's, whatever the model.
            done = self.run.next / f"{index:06d}.safetensors"
            save_tensors(done, combined.state, synced=False)
            layers[layer.name] = replace(combined, state=load_tensors(done)[0])
        self.collector.clear()
        certificates = [x.certificate for x in layers.values() if x.certificate is not None]
        return self.state.after(self.rule.settle(self.state.spec, layers)), _cut(certificates)

    def _remember(
        self, round: int, answered: Sequence[str], ranks: Mapping[str, dict[str, int]]
    ) -> None:
        """Who answered holds the Δ it was sent, whatever a screen said; pruned ranks persist."""
        for client in answered:
            self.store.held[client] = self.state.delta.version
            if self.rule.traits.memory:
                self.store.answered[client] = round
        if self.rule.traits.prunes:
            self.store.ranks |= ranks

    def _record(
        self,
        round: int,
        sending: Sending,
        collected: Collected,
        cut: Cut | None,
        seconds: Mapping[str, float],
    ) -> RoundRecord:
        replies = collected.replies
        examples = sum(reply.examples for reply in replies.values())
        # In one order, whoever was first: sums of floats depend on it.
        ordered = [replies[client] for client in sorted(replies)]
        loss = sum(reply.loss * reply.examples for reply in ordered) / max(examples, 1)
        return RoundRecord(
            round=round,
            learning_rate=self.schedule.recipe_for(round).learning_rate,
            clients=tuple(sorted(replies)),
            types=_count(self.store.types[client] for client in replies),
            failures=len(collected.failures),
            train_loss=loss,
            examples=examples,
            tokens=sum(reply.tokens for reply in replies.values()),
            bytes_down=sum(job.bytes_down for job in sending.jobs),
            bytes_up=collected.bytes_up,
            seconds=seconds,
            cut=cut,
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


def _cut(certificates: Sequence[Certificate]) -> Cut | None:
    """What was cut off over all layers; None for a rule that cuts nothing."""
    if not certificates:
        return None
    kinds = _count(certificate.kind for certificate in certificates)
    error = math.hypot(*(certificate.error for certificate in certificates))
    return Cut(error, kinds)


def _count(names: Iterator[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
