"""Ranks of a round by what they leave out of the state, within each client's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import final

from flexlora.allocation.order import error_beyond, within_error
from flexlora.config.schedule import Schedule
from flexlora.rules import Rule, State
from flexlora.runs.records import LeftOut
from flexlora.runs.store import ClientStore

Key = tuple[tuple[str, int], ...]


@final
class ErrorBudget:
    """share: of the state's energy; 0: every client has its own ranks. The spectra are those of the
    state that the round begins with, so that the same state gives the same ranks. chosen: client →
    the ranks that were found for it in an earlier round, and stand."""

    def __init__(
        self,
        rule: Rule,
        state: State,
        share: float,
        chosen: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    ) -> None:
        self._rule, self._state, self._share, self._chosen = rule, state, share, chosen
        self._found: dict[Key, dict[str, int]] = {}
        self._errors: dict[Key, float] = {}

    @staticmethod
    def of_round(rule: Rule, state: State, store: ClientStore, schedule: Schedule) -> ErrorBudget:
        """That of the round after `state`. Every `leave_out_every` rounds the store is given all
        clients' ranks anew, for a round that is played again the same; until then they stand."""
        share = schedule.leave_out
        budget = ErrorBudget(rule, state, share)
        if not share or schedule.leave_out_every == 1:
            return budget
        if state.round % schedule.leave_out_every == 0:
            found = {x: rule.ranks_for(state.spec, ranks) for x, ranks in store.ranks.items()}
            store.within = {client: budget.found(own) for client, own in found.items()}
        return ErrorBudget(rule, state, share, store.within)

    def of(self, client: str, own: Mapping[str, int]) -> dict[str, int]:
        """Layer → rank, at most its own; by this state for whom none was chosen before."""
        if not self._share:
            return dict(own)
        if client in self._chosen:
            chosen = self._chosen[client]
            ranks = {name: min(rank, chosen.get(name, rank)) for name, rank in own.items()}
        else:
            ranks = self.found(own)
        key = tuple(ranks.items())
        if key not in self._errors:
            self._errors[key] = error_beyond(self._spectra, ranks)
        return ranks

    def found(self, own: Mapping[str, int]) -> dict[str, int]:
        """By this state."""
        key = tuple(own.items())
        if key not in self._found:
            layers = self._state.spec.layers
            self._found[key] = within_error(layers, self._spectra, own, self._share)[0]
        return self._found[key]

    @property
    def left_out(self) -> LeftOut | None:
        """Of the client that is sent least; None where nothing is known of any, or asked."""
        if not self._errors:
            return None
        energy = sum(x**2 for held in self._spectra.values() for x in held)
        error = max(self._errors.values())
        return LeftOut(error**2 / energy, error) if energy else None

    @cached_property
    def _spectra(self) -> dict[str, list[float]]:
        found = self._rule.singular_values(self._state)
        return {name: values.double().tolist() for name, values in found.items()}
