"""All that is watched, as messages to pages: whole at first, then what has changed since."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, final

from flexlora.watching.places import Places

# Seconds until a run's files are looked at again, by its state.
PACE: Mapping[str, float] = {"running": 0.3, "stopped": 2.0, "waiting": 1.0, "finished": 10.0}
_OTHERS = 2.0
_KEPT = 300  # Messages that a page that was away can still be told one by one.
_OF_ONE = ("told", "lost", "begun", "answers")  # What the page of all runs is not sent.


@final
class Board:
    """Numbers what changes. A page names the last message that it had and is told those after it;
    one that was away too long, or has them of a server before this one, is told all again.

    One thread at a time.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._server = secrets.token_hex(4)  # Other processes number anew.
        self._number = 0
        self._recent: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_KEPT)
        self._due = dict.fromkeys(places.runs, 0.0)

    def look(self, now: float | None = None) -> bool:
        """Read what is due; whether anything has changed."""
        now = time.monotonic() if now is None else now
        before = self._number
        if self.places.search_again():
            self._add({"layout": self.places.layout()})
        for slug, run in self.places.runs.items():
            if self._due.get(slug, 0.0) <= now:
                changes = run.look()
                self._due[slug] = now + PACE.get(run.state, _OTHERS)
                if changes is not None:
                    self._add(changes)
        return self._number > before

    def since(self, last: str, slug: str) -> tuple[str, list[dict[str, Any]]]:
        """(the number of the last message, the messages after `last`); of one run, or "" of all.

        Every run's state as a whole where what it was cannot be told from there.
        """
        server, _, number = last.partition(".")
        known = server == self._server and number.isdecimal() and len(number) < 20
        at = int(number) if known else -1
        first = self._recent[0][0] if self._recent else self._number + 1
        if not first - 1 <= at <= self._number:
            return self._name(), self._all(slug)
        later = [changes for number, changes in self._recent if number > at]
        return self._name(), [x for x in (_seen(changes, slug) for changes in later) if x]

    def _all(self, slug: str) -> list[dict[str, Any]]:
        runs = [self.places.runs[slug]] if slug else self.places.runs.values()
        wholes = (_seen(run.whole(), slug) for run in runs)
        return [{"layout": self.places.layout()}, *(x for x in wholes if x)]

    def _add(self, changes: dict[str, Any]) -> None:
        self._number += 1
        self._recent.append((self._number, changes))

    def _name(self) -> str:
        return f"{self._server}.{self._number}"


def _seen(changes: dict[str, Any], slug: str) -> dict[str, Any] | None:
    """What of a message the page of this run, or of all runs, shows."""
    if "layout" in changes:
        return None if slug else changes
    if slug:
        return changes if changes["slug"] == slug else None
    return {key: value for key, value in changes.items() if key not in _OF_ONE}
