"""Flower 1.41's waits, shortened where something is about to come. It has no settings for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import final

SHARE = 0.1  # Of the time that it has been waiting: for so long it sleeps until it looks again.
LEAST = 0.1  # Seconds that it sleeps at least.
BACKOFF = 0.05  # Seconds until an object that is on its way is asked for again; then twice as long.
_PULLS = ("pull_objects", "pull_and_inflate_object_from_tree")


def pause(waited: float, most: float) -> float:
    """Seconds to sleep for whoever has waited so long; no more than `most`."""
    return min(most, max(LEAST, SHARE * waited))


@final
class Waits:
    """Stands for the module `time` where Flower's node sleeps: it sleeps no longer than it asks to.

    The longer nothing has happened, the longer it sleeps. So what comes waits for a tenth of the
    time before it at most, and a node that has no work looks as seldom as Flower has it: after half
    a minute every 3 seconds. alive: called before each sleep.
    """

    def __init__(
        self,
        alive: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._alive = alive
        self._clock = clock
        self._sleep = sleep
        self._asked = 0.0  # Seconds of the last sleep: they tell for what it waits.
        self._since = clock()

    def sleep(self, seconds: float) -> None:
        self._alive()
        if seconds != self._asked:
            self._asked, self._since = seconds, self._clock()
        self._sleep(pause(self._clock() - self._since, seconds))


def pull_sooner(module: ModuleType) -> None:
    """Have this module of Flower's ask soon again for parts of a message that are not there yet.

    A message is told of before its parts have come; whoever asks for them in between waits a whole
    second otherwise, the first time.
    """
    for name in _PULLS:
        if name in vars(module):
            vars(module)[name] = partial(vars(module)[name], initial_backoff=BACKOFF)
