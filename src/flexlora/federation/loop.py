"""The one loop: sample → send → exchange → collect → combine → evaluate → commit."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flexlora.adapters import Adapter, Payload, factors_payload
from flexlora.engines.jobs import Failure, Job, Reply, Transport
from flexlora.errors import RoundError
from flexlora.federation.collector import Collected, Collector, require_collectable
from flexlora.federation.on_clients import collect_scores, evaluation_jobs, summary
from flexlora.federation.sampling import sample
from flexlora.federation.schedule import Schedule
from flexlora.federation.screening import Passed, screened
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import load_tensors, save_tensors, to_bytes
from flexlora.lowrank import Certificate
from flexlora.rules import Rule, State
from flexlora.runs.checkpoint import pack, unpack, unpack_layers
from flexlora.runs.progress import Progress
from flexlora.runs.results import Result
from flexlora.runs.run_directory import Run
from flexlora.runs.spectra import spectra_record
from flexlora.runs.store import ClientStore
from flexlora.screens import Screen

Record = dict[str, Any]
Validate = Callable[[State], Record]
Decide = Callable[[Record], float]


class Observer(Protocol):
    """Who is told what happens; it cannot change anything.

    started: once, before the first round that is played, also on resume (the run tells what came
    before); ended: once, after the final scores; noted: what a person may want to know.
    """

    def started(self, run: Run) -> None: ...
    def round_started(self, round: int, clients: int) -> None: ...
    def replied(self, outcome: Reply | Failure) -> None: ...
    def round_ended(self, record: Record) -> None: ...
    def scoring(self, state: str) -> None: ...
    def noted(self, text: str) -> None: ...
    def ended(self, result: Result) -> None: ...


@dataclass(frozen=True, eq=False)
class Sending:
    """A round's jobs, and what each client was sent, as adapters."""

    jobs: list[Job]
    sent: dict[str, Adapter]


class Federation:
    """One federation, from round to round.

    collector: what makes contributions of replies; validate: the server's own scores of a state, or
    nothing; decide: from a validated round's record to the value that the best round minimises.
    screens: what updates pass between collecting and weighing, in order.
    Raises ConfigError for a rule or screen that needs more than this collector gives.

    Every random draw comes from a stream named by its round, and everything else that outlives a
    round is in the checkpoint: `restore` and going on gives the bits of an unbroken run.
    """

    def __init__(
        self,
        *,
        rule: Rule,
        state: State,
        store: ClientStore,
        schedule: Schedule,
        streams: Streams,
        transport: Transport,
        collector: Collector,
        screens: Sequence[Screen] = (),
        run: Run,
        validate: Validate,
        decide: Decide,
        observer: Observer,
    ) -> None:
        self.rule = rule
        self.state = state
        self.store = store
        self.schedule = schedule
        self.streams = streams
        self.transport = transport
        self.collector = collector
        self.screens = screens
        self.run = run
        self.validate = validate
        self.decide = decide
        self.observer = observer
        self.progress = Progress()
        require_collectable(rule, collector, screens)

    @property
    def finished(self) -> bool:
        patience = self.schedule.patience
        exhausted = patience > 0 and self.progress.stale >= patience
        return self.state.round >= self.schedule.rounds or exhausted

    def restore(self) -> None:
        """Go back to the last checkpoint (if there is one), and forget what was logged after it."""
        shutil.rmtree(self.run.next, ignore_errors=True)
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None:
            self.run.truncate_log(0)
            return
        tensors, meta = checkpoint
        with self.run.undamaged("checkpoints"):
            self.state = unpack(tensors, meta["state"])
            self.store = ClientStore.from_json(meta["store"])
            self.progress = Progress.from_json(meta["progress"])
        self.run.truncate_log(self.state.round)

    def rounds(self) -> Iterator[Record]:
        """Play the rounds that are left; yield each one's record after it is committed."""
        while not self.finished:
            yield self.play()

    def play(self) -> Record:
        """One round. Raises RoundError when no client gave a usable reply."""
        round = self.state.round + 1
        started = time.perf_counter()
        sending = self._send(round)
        self.observer.round_started(round, len(sending.jobs))
        collected = self._collect(round, sending)
        trained = time.perf_counter()
        passed = self._screen(round, sending, collected)
        state, cut = self._combine(round, sending, passed)
        self._remember(collected)
        combined = time.perf_counter()
        record = self._record(round, sending, collected) | passed.record | cut
        seconds = {"clients": trained - started, "combine": combined - trained}
        if self.schedule.validates(round):
            self._validate(state, collected, record, seconds)
        record["seconds"] = seconds
        self.state = state
        self._commit(record)
        self.observer.round_ended(record)
        return record

    def _send(self, round: int) -> Sending:
        clients = sample(
            self.store.clients, self.schedule.clients, self.streams.generator("sample", round)
        )
        # Clients of equal ranks are sent the same bytes: made once per distinct pattern, unless
        # the rule tells clients apart, each of which then has a stream of its own.
        by_client = self.rule.traits.sends == "client"
        made: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[Adapter, bytes]] = {}
        missing: dict[int | None, int] = {}
        jobs, sent = [], {}
        scored = self.schedule.score_trained and self.schedule.validates(round)
        for index, client in enumerate(clients):
            ranks = self.rule.ranks_for(self.state.spec, self.store.ranks[client])
            pattern = client if by_client else "", tuple(sorted(ranks.items()))
            if pattern not in made:
                draws = self.streams.generator("send", round, *([client] if by_client else []))
                adapter = self.rule.send(self.state, ranks, draws, client)
                made[pattern] = adapter, to_bytes(factors_payload(adapter))
            held = self.store.held.get(client)
            if held not in missing:
                missing[held] = self._delta_bytes(held)
            sent[client], payload = made[pattern]
            jobs.append(
                Job(
                    id=f"{round}-{index}",
                    round=round,
                    client=client,
                    recipe=self.schedule.recipe_for(round),
                    payload=payload,
                    origin=self.rule.traits.origin,
                    sides=self.rule.trains(round),
                    delta=self.state.delta,
                    bytes_down=len(payload) + missing[held],
                    seed=self.streams.derive("train", round, client),
                    metrics=self.schedule.metrics if scored else (),
                )
            )
        return Sending(jobs, sent)

    def _validate(
        self, state: State, collected: Collected, record: Record, seconds: dict[str, float]
    ) -> None:
        """Score the new state at the server and on clients, and log its spectra."""
        started = time.perf_counter()
        if scores := self.validate(state):
            record["validation"] = scores
        validated = time.perf_counter()
        if self.schedule.evaluating_clients:
            record["on_clients"] = self._evaluate_on_clients(state, collected)
        evaluated = time.perf_counter()
        self.run.append_spectra(spectra_record(self.rule, state))
        self.progress = self.progress.after(state.round, self.decide(record))
        seconds["validate"] = validated - started
        if self.schedule.evaluating_clients:
            seconds["evaluate_on_clients"] = evaluated - validated
        seconds["spectra"] = time.perf_counter() - evaluated

    def _evaluate_on_clients(self, state: State, collected: Collected) -> Record:
        round = state.round
        generator = self.streams.generator("evaluate", round)
        clients = sample(self.store.clients, self.schedule.evaluating_clients, generator)
        recipe, metrics = self.schedule.recipe_for(round), self.schedule.metrics
        jobs = evaluation_jobs(self.rule, state, self.store, clients, recipe, metrics)
        scores, failures = collect_scores(jobs, self.transport.exchange(jobs))
        for failure in failures:
            self._log_failure(round, failure, "evaluate")
            self.observer.replied(failure)
        record = {"global": summary(scores), "failures": len(failures)}
        if self.schedule.score_trained:
            replies = (collected.replies[client] for client in sorted(collected.replies))
            record["tuned"] = summary([r.score for r in replies if r.score is not None])
        return record | {"bytes_down": sum(job.bytes_down for job in jobs)}

    def _log_failure(self, round: int, failure: Failure, kind: str) -> None:
        event = {"round": round, "event": "failure", "kind": kind}
        self.run.append_event(event | {"client": failure.client, "reason": failure.reason})

    def _delta_bytes(self, held: int | None) -> int:
        """Serialised bytes of what a client that holds this version lacks of Δ."""
        total = 0
        for part in self.state.delta.since(held):
            tensors = {f"{name}.left": matrix.left for name, matrix in part.items()}
            tensors |= {f"{name}.right": matrix.right for name, matrix in part.items()}
            total += len(to_bytes(Payload("delta", tensors)))
        return total

    def _collect(self, round: int, sending: Sending) -> Collected:
        collected = Collected()
        replies = self.transport.exchange(sending.jobs)
        for outcome, so_far in self.collector.collect(sending.jobs, replies, sending.sent):
            collected = so_far
            if isinstance(outcome, Failure):
                self._log_failure(round, outcome, "train")
            self.observer.replied(outcome)
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
        passed = screened(self.screens, self.rule, self.collector, collected, sending.sent, layers)
        jobs = {job.client: job.id for job in sending.jobs}
        for client, reason in passed.left_out.items():
            failure = Failure(jobs[client], client, reason)
            collected.leave_out(failure)
            self._log_failure(round, failure, "train")
        if not passed.weights:
            raise RoundError(f"round {round}: the screens left no client; loosen [screens]")
        return passed

    def _combine(self, round: int, sending: Sending, passed: Passed) -> tuple[State, Record]:
        """The state after the round, layer by layer, and the record of what was cut off it."""
        spec, delta = self.state.spec, self.state.delta
        generator = self.streams.generator("combine", round)
        layers, frozen, steps, certificates = {}, {}, {}, []
        shutil.rmtree(self.run.next, ignore_errors=True)
        for index, layer in enumerate(spec.at(round, generator)):
            contributions = self.collector.contributions(
                layer.name, passed.weights, sending.sent, passed.shrinks
            )
            combined = self.rule.combine(layer, self.state.layers[layer.name], contributions)
            # A layer that is done waits on disk: memory is one layer's, whatever the model.
            done = self.run.next / f"{index:06d}.safetensors"
            save_tensors(done, combined.state, synced=False)
            layers[layer.name], _ = load_tensors(done)
            if combined.frozen is not None:
                frozen[layer.name] = combined.frozen
            if combined.step is not None:
                steps[layer.name] = combined.step
            if combined.certificate is not None:
                certificates.append(combined.certificate)
        self.collector.clear()
        if frozen:
            delta = delta.advanced(frozen, steps if len(steps) == len(frozen) else None)
        return State(spec, round, layers, delta), _cut(certificates)

    def _remember(self, collected: Collected) -> None:
        """Clients that replied hold the Δ they were sent; pruned ranks persist."""
        for client, ranks in collected.ranks.items():
            self.store.held[client] = self.state.delta.version
            if self.rule.traits.prunes:
                self.store.ranks[client] = ranks

    def _record(self, round: int, sending: Sending, collected: Collected) -> Record:
        replies = collected.replies
        examples = sum(reply.examples for reply in replies.values())
        # In one order, whoever was first: sums of floats depend on it.
        ordered = [replies[client] for client in sorted(replies)]
        loss = sum(reply.loss * reply.examples for reply in ordered) / max(examples, 1)
        return {
            "round": round,
            "learning_rate": self.schedule.recipe_for(round).learning_rate,
            "clients": sorted(replies),
            "types": _count(self.store.types[client] for client in replies),
            "failures": len(collected.failures),
            "train_loss": loss,
            "examples": examples,
            "tokens": sum(reply.tokens for reply in replies.values()),
            "bytes_down": sum(job.bytes_down for job in sending.jobs),
            "bytes_up": collected.bytes_up,
        }

    def _commit(self, record: Record) -> None:
        self.run.append_metrics(record)
        tensors, meta = pack(self.state)
        self.run.write_checkpoint(
            self.state.round,
            tensors,
            {
                "state": meta,
                "store": self.store.to_json(),
                "progress": self.progress.to_json(),
            },
            best=self.progress.best_round or None,
        )
        kept = self.run.load_checkpoint(self.state.round)
        assert kept is not None
        self.state = replace(self.state, layers=unpack_layers(kept[0]))
        shutil.rmtree(self.run.next, ignore_errors=True)


def _cut(certificates: Sequence[Certificate]) -> Record:
    """{"cut": {error, certificates}}: ‖what was cut off‖_F over all layers, and how many of each
    kind say so. Empty for a rule that cuts nothing.
    """
    if not certificates:
        return {}
    kinds = _count(certificate.kind for certificate in certificates)
    error = math.hypot(*(certificate.error for certificate in certificates))
    return {"cut": {"error": error, "certificates": kinds}}


def _count(names: Iterator[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
