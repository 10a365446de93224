"""Faults that are made on purpose, so that a run can be rehearsed with clients that fail."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from flexlora.config.table import Table

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
KINDS = ("drop", "delay", "duplicate", "corrupt", "crash")


class FaultsConfig(Table):
    """[faults]: what goes wrong on purpose: at most one fault for a client each time it is asked.

    Each is drawn by seed, round, client and attempt, so that a resumed run meets the same faults.
    """

    drop: Rate = Field(default=0.0, description="share of answers that are lost on the way")
    delay: Rate = Field(
        default=0.0, description="share of answers that come when clients are asked next, too late"
    )
    duplicate: Rate = Field(default=0.0, description="share of answers that come twice")
    corrupt: Rate = Field(
        default=0.0, description="share of answers of which a byte, or a score, is damaged"
    )
    crash: Rate = Field(
        default=0.0, description="share of clients that end before they have done anything"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="seed of the faults alone"
    )

    @model_validator(mode="after")
    def _one_at_a_time(self) -> FaultsConfig:
        total = sum(self.rates.values())
        if total > 1.0 + 1e-9:
            raise ValueError(
                f"the rates add up to {total:g}, expected at most 1, for a client meets one fault "
                "at a time; lower some"
            )
        return self

    @property
    def rates(self) -> dict[str, float]:
        """Fault → its rate, of all kinds."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @property
    def on(self) -> bool:
        return any(self.rates.values())

    def words(self) -> str:
        """What is made to fail, in a sentence; "" for nothing."""
        told = ", ".join(f"{kind} {rate:g}" for kind, rate in self.rates.items() if rate)
        return f"faults are made on purpose: {told} (seed {self.seed})" if told else ""
