"""The only maker of jobs: what each client is sent, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from flexlora.adapters import Adapter, coarse_payload, factors_payload, payload_adapter
from flexlora.config.schedule import Schedule
from flexlora.engines.jobs import Evaluate, Train
from flexlora.federation.error_budget import ErrorBudget
from flexlora.federation.sampling import drawn, sample
from flexlora.federation.streams import Streams
from flexlora.formats.delta import update_payload
from flexlora.formats.payloads import to_bytes
from flexlora.rules import Rule, Spec, State
from flexlora.rules.promises import require_begun, require_readout, require_sent
from flexlora.runs.records import LeftOut
from flexlora.runs.store import ClientStore


@dataclass(frozen=True, eq=False)
class Sending:
    """A round's jobs, and what each client was sent, as adapters: as they arrive; left_out: of the
    state, by ranks that follow from an error."""

    jobs: list[Train]
    sent: dict[str, Adapter]
    left_out: LeftOut | None = None


@dataclass(frozen=True, eq=False)
class Sender:
    """Makes jobs from a federation's state and what is known of its clients.

    scorers: the clients that hold what to score on; others are never asked to evaluate.
    Every draw comes from a stream named by its round, so the same state gives the same jobs.
    """

    rule: Rule
    schedule: Schedule
    streams: Streams
    scorers: Sequence[str] = ()

    def begin(self, spec: Spec) -> State:
        """The state before round 1."""
        return require_begun(self.rule, self.rule.init(spec, self.streams.generator("init")))

    def training(
        self,
        state: State,
        store: ClientStore,
        clients: Sequence[str] | None = None,
        kept: Sequence[int] = (),
        attempt: int = 1,
    ) -> Sending:
        """The jobs of the round after `state`, in the order of the clients.

        clients: instead of those that the round draws first; attempt: at this round. Clients of
        equal ranks are sent the same bytes, made once, unless the rule tells clients apart, each of
        which then has a stream of its own. kept: the rounds that have a checkpoint. Raises
        RuleError, before anybody trains, for what the rule may not send.
        """
        round = state.round + 1
        if clients is None:
            clients = sorted(drawn(self.streams, self.schedule, store, round))
        by_client = self.rule.traits.sends == "client"
        made: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[Adapter, bytes]] = {}
        missing: dict[int | None, int] = {}
        asks = self.schedule.score_trained and self.schedule.validates(round)
        budget = ErrorBudget.of_round(self.rule, state, store, self.schedule)
        jobs, sent = [], {}
        for index, client in enumerate(clients):
            ranks = budget.of(client, self.rule.ranks_for(state.spec, store.ranks[client]))
            pattern = client if by_client else "", tuple(sorted(ranks.items()))
            if pattern not in made:
                draws = self.streams.generator("send", round, *([client] if by_client else []))
                send = partial(self.rule.send, state, ranks, draws, client)
                adapter = require_sent(self.rule, send, state.spec, ranks, client, round)
                made[pattern] = self._rounded(adapter, round, pattern)
            sent[client], payload = made[pattern]
            held = store.held.get(client)
            if held not in missing:
                missing[held] = _update_bytes(state, held)
            jobs.append(
                Train(
                    id=job_id(round, index, attempt),
                    round=round,
                    client=client,
                    payload=payload,
                    delta=state.delta,
                    held=held,
                    origin=self.rule.traits.origin,
                    sides=self.rule.trains(round),
                    recipe=self.schedule.recipe_for(round),
                    seed=self.streams.derive("train", round, client),
                    metrics=self.schedule.metrics if asks else (),
                    bytes_down=0 if self.rule.traits.alone else len(payload) + missing[held],
                    kept=tuple(kept),
                    answered=store.answered.get(client),
                    attempt=attempt,
                )
            )
        return Sending(jobs, sent, budget.left_out)

    def _rounded(
        self, adapter: Adapter, round: int, pattern: tuple[str, tuple[tuple[str, int], ...]]
    ) -> tuple[Adapter, bytes]:
        """What arrives, and the bytes: of a wire with fewer bits, another adapter than was sent."""
        payload, wire = factors_payload(adapter), self.schedule.wire
        if wire == "exact" or self.rule.traits.alone:
            return adapter, to_bytes(payload)
        payload = coarse_payload(payload, wire, self.streams.generator("wire", round, str(pattern)))
        return payload_adapter(payload), to_bytes(payload)

    def evaluation(
        self, state: State, store: ClientStore, clients: Sequence[str] | None = None
    ) -> list[Evaluate]:
        """Jobs to score the global adapter at each client's own ranks: the readout, against W₀.

        Clients of equal ranks are sent the same bytes, made once. No Δ is needed: the readout
        stands for all that was learned, as an export of that rank does. clients: instead of those
        that the state's round draws of the scorers.
        """
        if clients is None:
            draw = self.streams.generator("evaluate", state.round)
            clients = sample(self.scorers, self.schedule.evaluating_clients, draw)
        made: dict[tuple[tuple[str, int], ...], bytes] = {}
        jobs = []
        for index, client in enumerate(clients):
            ranks = self.rule.ranks_for(state.spec, store.ranks[client])
            pattern = tuple(sorted(ranks.items()))
            if pattern not in made:
                adapter = self.rule.readout(state, ranks)
                require_readout(self.rule, adapter, state.spec, ranks)
                made[pattern] = to_bytes(factors_payload(adapter))
            job_id = f"{state.round}-evaluate-{index}"
            jobs.append(
                Evaluate(
                    id=job_id,
                    round=state.round,
                    client=client,
                    payload=made[pattern],
                    metrics=self.schedule.metrics,
                    answered=store.answered.get(client),
                )
            )
        return jobs


def job_id(round: int, index: int, attempt: int) -> str:
    """Another one in every attempt, so that an answer to an earlier one is known for what it is."""
    return f"{round}-{index}" if attempt == 1 else f"{round}.{attempt}-{index}"


def _update_bytes(state: State, held: int | None) -> int:
    """Serialised bytes of what a client that holds this version lacks of Δ."""
    update = state.delta.since(held)
    return 0 if update is None else len(to_bytes(update_payload(update)))
