"""What would make a model fit a device that it does not fit as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from flexlora.allocation.memory import Setting

_SHORTEST = 64
_HALVES = 3


@dataclass(frozen=True)
class Remedy:
    """A change of how clients train, in the words of the command's options."""

    words: str
    setting: Setting


def remedies(setting: Setting) -> Iterator[Remedy]:
    """Each change by itself, the cheapest first, then all together, more and more of it.

    Checkpointing costs time alone; 4 bits some accuracy and a GPU's kernels; a smaller batch more
    steps; shorter examples lose their ends.
    """
    held, words = setting, []
    if not setting.checkpointing:
        yield Remedy("--checkpointing", replace(setting, checkpointing=True))
        held, words = replace(held, checkpointing=True), ["--checkpointing"]
    if setting.batch > 1:
        yield Remedy("--batch 1", replace(setting, batch=1))
        yield Remedy(" ".join([*words, "--batch 1"]), replace(held, batch=1))
    if setting.quantise == "none":
        yield Remedy("--quantise 4bit", replace(setting, quantise="4bit"))
        held, words = replace(held, quantise="4bit"), [*words, "--quantise 4bit"]
        yield Remedy(" ".join(words), held)
    if held.batch > 1:
        held, words = replace(held, batch=1), [*words, "--batch 1"]
        yield Remedy(" ".join(words), held)
    for _ in range(_HALVES):
        if held.length // 2 < _SHORTEST:
            return
        held = replace(held, length=held.length // 2)
        yield Remedy(" ".join([*words, f"--length {held.length}"]), held)


def first_that(fits: Callable[[Setting], bool], setting: Setting) -> Remedy | None:
    """The first remedy with which it fits; None where none does."""
    return next((x for x in remedies(setting) if fits(x.setting)), None)
