"""Ranks of one round by what they leave out of the state, within each client's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import final

from flexlora.allocation.order import within_error
from flexlora.rules import Rule, State
from flexlora.runs.records import LeftOut


@final
class ErrorBudget:
    """share: of the state's energy; 0: every client has its own ranks. The spectra are those of the
    state that the round begins with, so that the same state gives the same ranks."""

    def __init__(self, rule: Rule, state: State, share: float) -> None:
        self._rule, self._state, self._share = rule, state, share
        self._found: dict[tuple[tuple[str, int], ...], tuple[dict[str, int], float]] = {}

    def of(self, own: Mapping[str, int]) -> dict[str, int]:
        """Layer → rank, at most its own."""
        if not self._share:
            return dict(own)
        key = tuple(own.items())
        if key not in self._found:
            layers = self._state.spec.layers
            self._found[key] = within_error(layers, self._spectra, own, self._share)
        return self._found[key][0]

    @property
    def left_out(self) -> LeftOut | None:
        """Of the client that is sent least; None where nothing is known of any, or asked."""
        if not self._found:
            return None
        energy = sum(x**2 for held in self._spectra.values() for x in held)
        error = max(error for _, error in self._found.values())
        return LeftOut(error**2 / energy, error) if energy else None

    @cached_property
    def _spectra(self) -> dict[str, list[float]]:
        found = self._rule.singular_values(self._state)
        return {name: values.double().tolist() for name, values in found.items()}
