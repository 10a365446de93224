"""What clients of a run will take of their devices, by the planner's model, on the run's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import Memory, Setting, training_memory
from flexlora.allocation.shape import Footprint, ModelShape
from flexlora.allocation.work import step_seconds
from flexlora.config.config import Config
from flexlora.federation.absent import Absent, bounded
from flexlora.models import AdaptedModel
from flexlora.models.base import quiet
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline
from flexlora.planning.allotment import Steps
from flexlora.planning.footprints import footprint
from flexlora.rules import Rule
from flexlora.tasks.prompts import Encoded
from flexlora.training import Recipe

Held = Mapping[str, Sequence[Encoded]]


@dataclass(frozen=True, eq=False)
class Foresight:
    """The price of training: a `planning.allotment.Costed`. held: client → what it trains on.

    Of examples that are elsewhere every one counts as long as any may be, and no more of them than
    `federation.most_examples`. All but `lengths` and `steps` raise ModelError for a model whose
    passes cannot be played without numbers.
    """

    config: Config
    model: AdaptedModel
    held: Held
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.model.base.name

    @cached_property
    def shape(self) -> ModelShape:
        """That of the bare model, with the layers that are adapted here."""
        owner: Any = self.model.model
        with quiet():
            whole = shape_of(outline(owner.config, self.name, None), self.name)
        return replace(whole, layers=tuple(self.model.layers))

    def memory(self, ranks: Mapping[str, int], setting: Setting) -> Memory:
        return training_memory(self.shape, self.footprint(setting), ranks, setting)

    def seconds(self, ranks: Mapping[str, int], setting: Setting, device: Device) -> float:
        """Of one step. What a token keeps is that of the largest batch of all: one is played."""
        return step_seconds(self.shape, self._of_largest, ranks, setting, device)

    def heaviest(self, rule: Rule, clients: Iterable[str]) -> Setting:
        """How one of these trains on the largest batch that any of them has."""
        return self._heaviest(clients, origin=rule.traits.origin)

    def parts(self, rule: Rule, client: str) -> Steps:
        """Its steps of a round on examples of its mean length: whole batches, and what is left at
        the end of an epoch."""
        lengths = self.lengths(client)
        steps, size = self.recipe.steps(len(lengths)), self.recipe.batch_size
        rest = len(lengths) % size
        small = steps // -(-len(lengths) // size) if rest else 0
        return [
            (self._usual(lengths, batch, origin=rule.traits.origin), count)
            for batch, count in ((size, steps - small), (rest, small))
            if count
        ]

    def steps(self, client: str) -> int:
        """In one round."""
        return self.recipe.steps(len(self.lengths(client)))

    def lengths(self, client: str) -> list[int]:
        """Tokens of each of its examples."""
        part = self.held[client]
        if isinstance(part, Absent):
            most = self.config.federation.most_examples
            return [self.config.data.max_tokens] * bounded(part, len(part), most)
        return [len(x.prompt) + len(x.response) for x in part]

    def footprint(self, setting: Setting) -> Footprint:
        """Of examples as long as in the largest batch of all, or longer: a step takes seconds to
        be played, and what a token keeps hardly depends on how many others there are."""
        owner: Any = self.model.model
        played = replace(setting, length=max(setting.length, self._largest.length))
        return footprint(owner.config, self.name, played, tuple(self.config.model.targets))

    @cached_property
    def _largest(self) -> Setting:
        return self._heaviest(self.held)

    @cached_property
    def _of_largest(self) -> Footprint:
        return self.footprint(self._largest)

    def _heaviest(self, clients: Iterable[str], *, origin: bool = False) -> Setting:
        best = 1, 1
        for client in clients:
            lengths = sorted(self.lengths(client), reverse=True)[: self.recipe.batch_size]
            best = max(best, (len(lengths), sum(lengths)), key=lambda held: held[1])
        return self._setting(*best, origin=origin)

    def _usual(self, lengths: Sequence[int], batch: int, *, origin: bool) -> Setting:
        """How it trains on so many of mean length."""
        return self._setting(batch, -(-sum(lengths) * batch // len(lengths)), origin=origin)

    def _setting(self, batch: int, tokens: int, *, origin: bool) -> Setting:
        """tokens: of all its examples."""
        model, length = self.config.model, -(-tokens // batch)
        return Setting(
            batch=batch,
            length=length,
            dtype=model.dtype,
            optimiser=self.recipe.optimiser,
            checkpointing=model.checkpointing,
            quantise=model.quantise,
            origin=origin,
        )
