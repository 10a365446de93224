"""What a round asks of clients and makes of their answers; the loop plays it, whichever it is."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, final

from flexlora.engines.jobs import Failure, Offer, Outcome, Reply, Train, TrainSparse
from flexlora.federation.admission import Collected
from flexlora.federation.collector import Collector, require_collectable
from flexlora.federation.screening import Passed, screened
from flexlora.federation.sending import Sender, Sending
from flexlora.federation.smaller import smaller
from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.lowrank import Certificate
from flexlora.rules import Combined, State
from flexlora.rules.promises import require_combined
from flexlora.runs.records import Cut, LeftOut
from flexlora.runs.run_directory import Run
from flexlora.runs.store import ClientStore
from flexlora.screens import Screen


class Asked(Protocol):
    """What was made for a round: at least its jobs, in order of client."""

    @property
    def jobs(self) -> Sequence[Train | TrainSparse]: ...

    @property
    def left_out(self) -> LeftOut | None: ...


S = TypeVar("S", bound=Asked)


class Stage(Protocol[S]):
    """The steps of a round that differ with what clients train. sparse: single weights."""

    sparse: bool

    def send(
        self,
        state: State,
        store: ClientStore,
        kept: Sequence[int],
        clients: Sequence[str] | None,
        attempt: int,
    ) -> S:
        """The jobs of the round after `state`, of these clients, in their order.

        kept: the rounds that have a checkpoint; attempt: at this round.
        """
        ...

    def ranks(self, asked: S, client: str) -> Mapping[str, int]:
        """Layer → rank at which this client was asked to train."""
        ...

    def smaller(
        self, state: State, store: ClientStore, asked: S, offer: Offer
    ) -> Train | TrainSparse | Failure:
        """The job that a client gets instead of one that it has no memory for."""
        ...

    def collect(
        self, asked: S, replies: Iterable[Outcome]
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        """Yield after every reply what has come so far; begins anew."""
        ...

    def weigh(self, state: State, asked: S, collected: Collected) -> Passed:
        """Who takes part, with what weight."""
        ...

    def combine(self, state: State, asked: S, passed: Passed) -> tuple[State, Cut | None]:
        """The state after the round, and the record of what was cut off it."""
        ...

    def remember(
        self, state: State, store: ClientStore, answered: Sequence[str], collected: Collected
    ) -> None:
        """Note in the store what became of clients. answered: also those that were left out."""
        ...


@final
class AdapterStage:
    """Clients train adapters, and the rule combines them, layer by layer.

    Raises ConfigError for a rule or screen that needs more than this collector gives.
    """

    sparse = False

    def __init__(
        self, sender: Sender, collector: Collector, screens: Sequence[Screen], run: Run
    ) -> None:
        self._sender = sender
        self._rule = sender.rule
        self._collector = collector
        self.screens = screens
        self._run = run
        require_collectable(
            sender.rule,
            collector,
            screens,
            agreement=sender.schedule.agreement,
            over_sample=sender.schedule.over_sample,
        )

    def send(
        self,
        state: State,
        store: ClientStore,
        kept: Sequence[int],
        clients: Sequence[str] | None,
        attempt: int,
    ) -> Sending:
        return self._sender.training(state, store, clients, kept, attempt)

    def ranks(self, asked: Sending, client: str) -> Mapping[str, int]:
        return asked.sent[client].ranks

    def smaller(
        self, state: State, store: ClientStore, asked: Sending, offer: Offer
    ) -> Train | Failure:
        return smaller(self._sender, state, store, asked, offer)

    def collect(
        self, asked: Sending, replies: Iterable[Outcome]
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        return self._collector.collect(asked.jobs, replies, asked.sent)

    def weigh(self, state: State, asked: Sending, collected: Collected) -> Passed:
        """As the screens and the rule have it."""
        return screened(
            self.screens,
            self._rule,
            self._collector,
            collected,
            asked.sent,
            [layer.name for layer in state.spec.layers],
            self._sender.schedule.agreement,
        )

    def combine(self, state: State, asked: Sending, passed: Passed) -> tuple[State, Cut | None]:
        generator = self._sender.streams.generator("combine", state.round + 1)
        layers: dict[str, Combined] = {}
        shutil.rmtree(self._run.next, ignore_errors=True)
        for index, layer in enumerate(state.spec.at(state.round + 1, generator)):
            contributions = self._collector.contributions(
                layer.name, passed.weights, asked.sent, passed.shrinks
            )
            combined = self._rule.combine(layer, state.layers[layer.name], contributions)
            require_combined(self._rule, combined, layer)
            # A layer that is done waits on disk: memory is one layer's, whatever the model.
            done = self._run.next / f"{index:06d}.safetensors"
            save_tensors(done, combined.state, synced=False)
            layers[layer.name] = replace(combined, state=load_tensors(done)[0])
        self._collector.clear()
        certificates = [x.certificate for x in layers.values() if x.certificate is not None]
        return state.after(self._rule.settle(state.spec, layers)), cut_of(certificates)

    def remember(
        self, state: State, store: ClientStore, answered: Sequence[str], collected: Collected
    ) -> None:
        """Who answered holds the Δ it was sent, whatever a screen said; pruned ranks persist."""
        for client in answered:
            store.held[client] = state.delta.version
            if self._rule.traits.memory:
                store.answered[client] = state.round + 1
        if self._rule.traits.prunes:
            store.ranks |= collected.ranks


def cut_of(certificates: Sequence[Certificate]) -> Cut | None:
    """What was cut off over all layers; None where nothing was."""
    if not certificates:
        return None
    kinds = counted(certificate.kind for certificate in certificates)
    error = math.hypot(*(certificate.error for certificate in certificates))
    return Cut(error, kinds)


def counted(names: Iterable[str]) -> Mapping[str, int]:
    """How often each comes, in order of name."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
