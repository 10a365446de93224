"""SLoRA's first stage: rounds of sparse training, of which an SVD makes the adapters' start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import LayerSpec
from flexlora.adapters.sparse import places, spread, values_payload, weights_for
from flexlora.engines.jobs import Failure, Offer, Outcome, Reply, TrainSparse
from flexlora.federation.admission import Collected, answered, total_norm
from flexlora.federation.guard import checked_values
from flexlora.federation.outcomes import NOTHING, Known
from flexlora.federation.sampling import drawn
from flexlora.federation.screening import Passed
from flexlora.federation.sending import Sender, job_id
from flexlora.federation.spool import Spool
from flexlora.federation.stages import cut_of
from flexlora.formats.payloads import to_bytes
from flexlora.lowrank import Certificate, Dense, LowRank, truncate
from flexlora.rules import Spec, State
from flexlora.rules.promises import require_begun
from flexlora.runs.records import Cut
from flexlora.runs.store import ClientStore

HELD = "sparse"
"""Of a layer's state beside the rule's own tensors: D at its places, while the stage goes on."""


@final
@dataclass(frozen=True, eq=False)
class SparseSending:
    """A round's jobs, and each client's ranks; `mean_rank` is what it may be weighed by."""

    jobs: list[TrainSparse]
    ranks: Mapping[str, Mapping[str, int]]
    left_out: None = None

    def mean_rank(self, client: str) -> float:
        return sum(self.ranks[client].values()) / len(self.ranks[client])


@final
class SparseStage:
    """D ← D + Σ w_k M_k ∘ (D_k − D), for so many rounds; then LoRA begins at the best of D.

    D is the change of the adapted layers' weights; a client trains from W₀ + D what its mask M_k
    chooses, (m + n) r_k weights of an m × n layer, and is sent D whole. M_k is drawn once, of a
    seed that both ends know, so that values alone travel; what a client does not own counts as
    zero in the mean. After every round the rule's state is that of its own warm start at the best
    part of D of the federation's highest rank, which is what is scored, handed out, and begun with.

    Source: Babakniya et al., arXiv 2308.06522. There all clients have one rank and so one mask;
    that masks of lower ranks are the beginning of those of higher ones is ours. There masks cover
    the whole model, here the layers that are adapted.
    """

    sparse = True

    def __init__(self, sender: Sender, rounds: int, folder: Path, known: Known = NOTHING) -> None:
        """folder: for a round's replies, while they come; known: of the clients, which bounds what
        they may say of themselves."""
        self.rounds = rounds
        self._sender = sender
        self._rule = sender.rule
        self._known = known
        self._spool = Spool(folder)
        self._numbers: dict[str, int] = {}
        self._seed = sender.streams.derive("mask")

    def begin(self, state: State) -> State:
        """A state before round 1, with D = 0 beside it."""
        held = _counts(state.spec, self._rule.ranks_for(state.spec, state.spec.highest))
        return _with(state, {name: torch.zeros(count) for name, count in held.items()})

    def goes_on(self, state: State) -> bool:
        """Whether the round after this state is sparse: it holds D, and there are rounds left."""
        return state.round < self.rounds and holds_sparse(state)

    def send(
        self,
        state: State,
        store: ClientStore,
        kept: Sequence[int] = (),
        clients: Sequence[str] | None = None,
        attempt: int = 1,
    ) -> SparseSending:
        """clients: instead of those that the round draws, as they would be drawn for adapters."""
        round, streams, schedule = state.round + 1, self._sender.streams, self._sender.schedule
        if clients is None:
            clients = sorted(drawn(streams, schedule, store, round))
        payload = to_bytes(values_payload(_held(state)))
        ranks = {x: self._rule.ranks_for(state.spec, store.ranks[x]) for x in clients}
        jobs = [
            TrainSparse(
                id=job_id(round, index, attempt),
                round=round,
                client=client,
                payload=payload,
                trained=_counts(state.spec, ranks[client]),
                mask=self._seed,
                recipe=schedule.recipe_for(round),
                seed=streams.derive("train", round, client),
                attempt=attempt,
            )
            for index, client in enumerate(clients)
        ]
        return SparseSending(jobs, ranks)

    def ranks(self, asked: SparseSending, client: str) -> Mapping[str, int]:
        return asked.ranks[client]

    def smaller(
        self, state: State, store: ClientStore, asked: SparseSending, offer: Offer
    ) -> Failure:
        """None: masks are drawn once, and nobody offers less of one."""
        return Failure(offer.job, offer.client, offer.reason)

    def collect(
        self, asked: SparseSending, replies: Iterable[Outcome]
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        self.clear()
        self._spool.folder.mkdir(parents=True)
        collected = Collected()

        def check(job: TrainSparse, reply: Reply) -> float:
            values = checked_values(reply, job.trained)
            return total_norm(float(x.double().norm()) for x in values.values())

        def take(index: int, reply: Reply, norm: float) -> None:
            self._spool.put(index, reply.payload)
            self._numbers[reply.client] = index
            collected.take(reply, norm, asked.mean_rank(reply.client))

        return answered(asked.jobs, replies, collected, check, take, self._known)

    def weigh(self, state: State, asked: SparseSending, collected: Collected) -> Passed:
        """By the rule; screens are for adapters."""
        ordered = [collected.summaries[client] for client in sorted(collected.summaries)]
        return Passed(self._rule.weights(ordered))

    def combine(
        self, state: State, asked: SparseSending, passed: Passed
    ) -> tuple[State, Cut | None]:
        """The rule's state at the best part of D; D stays beside it unless this was the last."""
        streams, round = self._sender.streams, state.round + 1
        draw = streams.generator("combine", round)
        held, starts, certificates = {}, {}, []
        for layer in state.spec.layers:
            held[layer.name] = self._mean(layer, state.layers[layer.name][HELD], passed.weights)
            rank = state.spec.highest[layer.name]
            start, certificate = best_start(layer, held[layer.name], rank, self._seed, draw)
            starts[layer.name] = start
            certificates.append(certificate)
        self.clear()
        begun = self._rule.warm_start(state.spec, starts, streams.generator("init"))
        after = replace(require_begun(self._rule, begun), round=round)
        return after if round >= self.rounds else _with(after, held), cut_of(certificates)

    def remember(
        self, state: State, store: ClientStore, answered: Sequence[str], collected: Collected
    ) -> None:
        """Nothing: clients keep no part of D, and have no Δ yet."""

    def reply_bytes(self, job: TrainSparse) -> int:
        """Serialised bytes of what this client returns."""
        return len(to_bytes(values_payload({x: torch.zeros(n) for x, n in job.trained.items()})))

    def clear(self) -> None:
        """Remove what came, of this round or of one that was cut short."""
        self._numbers.clear()
        self._spool.clear()

    def _mean(self, layer: LayerSpec, held: Tensor, weights: Mapping[str, float]) -> Tensor:
        """D at its places, after the round; in float64, in order of client."""
        total = held.double()
        for client in sorted(weights):
            (change,) = self._spool.tensors(self._numbers[client], [layer.name])
            total[: len(change)] += weights[client] * change.double()
        return total.float()


def sparse_stage(
    sender: Sender, rounds: int, folder: Path, known: Known = NOTHING
) -> SparseStage | None:
    """The stage of so many rounds; None for 0."""
    return SparseStage(sender, rounds, folder, known) if rounds else None


def best_start(
    layer: LayerSpec, held: Tensor, rank: int, seed: int, generator: torch.Generator
) -> tuple[LowRank, Certificate]:
    """The best approximation of D of at most this rank, and what it cuts off.

    held: D at its places, of this seed.
    """
    dense = spread(held, places(layer, len(held), seed), layer)
    found = truncate(Dense(dense), rank, generator)
    return found.kept.low_rank(), found.certificate


def holds_sparse(state: State) -> bool:
    """Whether this is a state of the stage, after which more of it can come."""
    return all(HELD in state.layers[layer.name] for layer in state.spec.layers)


def _counts(spec: Spec, ranks: Mapping[str, int]) -> dict[str, int]:
    """Layer → how many weights stand for these ranks."""
    return {layer.name: weights_for(layer, ranks[layer.name]) for layer in spec.layers}


def _held(state: State) -> dict[str, Tensor]:
    return {layer.name: state.layers[layer.name][HELD] for layer in state.spec.layers}


def _with(state: State, held: Mapping[str, Tensor]) -> State:
    layers = {name: {**layer, HELD: held[name]} for name, layer in state.layers.items()}
    return replace(state, layers=layers)
