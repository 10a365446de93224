"""A round of a federation without models or transport: what is sent, returned and combined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import final

import torch

from flexlora.adapters import Adapter, norm_of_update
from flexlora.rules import Contribution, Listed, Memory, Rule, State, Summary

# What a client makes of what it received.
Train = Callable[[str, Adapter], Adapter]


@final
class Round:
    """One round up to combining: what each client was sent and returned, and its weight.

    cohort: client → its ranks (layer → rank). examples: by default 10, 20, … in order of client.
    seed: of every client's draw in `send`. memories: client → what it remembers of earlier rounds;
    `remembered`: of this one, too.
    """

    def __init__(
        self,
        rule: Rule,
        state: State,
        cohort: Mapping[str, Mapping[str, int]],
        train: Train,
        examples: Mapping[str, int] | None = None,
        seed: int = 0,
        memories: Mapping[str, Memory] | None = None,
    ) -> None:
        self.rule, self.state = rule, state
        # As in the loop: every client's draw starts from the same named stream.
        self.sent = {
            client: rule.send(state, rule.ranks_for(state.spec, ranks), _generator(seed), client)
            for client, ranks in cohort.items()
        }
        self.remembered = dict(memories or {})
        self.received: dict[str, Adapter] = {}
        self.replies: dict[str, Adapter] = {}
        for client, sent in self.sent.items():
            memory = self.remembered.get(client, {})
            self.received[client] = received = rule.receive(sent, memory)
            sides = rule.trains(state.round + 1)
            trained = train(client, received).only(sides).filled(received)
            encoded = rule.reply(state.round + 1, trained, received, memory)
            rest = sent if rule.leaves_the_rest(state.round + 1) else encoded.adapter
            self.replies[client] = encoded.adapter.filled(rest)
            self.remembered[client] = encoded.memory
        counts = examples or {client: 10 * (i + 1) for i, client in enumerate(sorted(cohort))}
        self.weights = rule.weights([self._summary(client, counts[client]) for client in cohort])

    def _summary(self, client: str, examples: int) -> Summary:
        reply = self.replies[client]
        norm = norm_of_update(reply, self.sent[client], origin=self.rule.traits.origin)
        mean_rank = sum(reply.ranks.values()) / len(reply)
        return Summary(client, examples, norm, mean_rank)

    def contributions(self, layer: str, clients: Iterable[str] | None = None) -> Listed:
        """Of these clients (all, in order of id), their weights summing to 1."""
        chosen = list(sorted(self.replies) if clients is None else clients)
        total = sum(self.weights[client] for client in chosen)
        return Listed(
            [
                Contribution.of(
                    client,
                    self.weights[client] / total,
                    self.replies[client][layer],
                    self.sent[client][layer] if self.rule.traits.origin else None,
                    self.sent[client][layer],
                )
                for client in chosen
            ]
        )

    def combined(self, clients: Iterable[str] | None = None) -> State:
        """The state after the round, Δ included."""
        state, chosen = self.state, None if clients is None else list(clients)
        layers = {}
        for spec in state.spec.layers:
            layer = next(
                x for x in state.spec.at(state.round + 1, _generator(0)) if x.name == spec.name
            )
            contributions = self.contributions(layer.name, chosen)
            layers[layer.name] = self.rule.combine(layer, state.layers[layer.name], contributions)
        return state.after(self.rule.settle(state.spec, layers))


def play(
    rule: Rule,
    state: State,
    cohort: Mapping[str, Mapping[str, int]],
    train: Train,
    seed: int = 0,
) -> State:
    """The state after one whole round."""
    return Round(rule, state, cohort, train, seed=seed).combined()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
