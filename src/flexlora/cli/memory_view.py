"""What a client of each type will take of memory while it trains."""

from __future__ import annotations

from flexlora.cli.console import say
from flexlora.federation.foreseen import Peaks
from flexlora.formats.words import size


def say_memory(peaks: Peaks) -> None:
    """One line; another one for a model of which it cannot be foreseen."""
    if not peaks:
        say("memory of training: this model's cannot be foreseen from sizes")
        return
    told = ", ".join(f"{name} {size(round(held.peak))}" for name, held in peaks.items())
    weights = next(iter(peaks.values())).weights
    say(
        f"memory of training at its peak, one client alone: {told}; the base takes "
        f"{size(round(weights))} of each"
    )
