"""A run as its log tells it, in plain values: what a page is sent whole, then in parts."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from flexlora.errors import FlexLoRAError, cut_short
from flexlora.formats.checked import checked
from flexlora.formats.visible import brief, visible
from flexlora.runs.events import (
    Ended,
    Event,
    Failed,
    Replied,
    RoundBegun,
    RoundEnded,
    Scoring,
    Spare,
    Started,
)
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from flexlora.watching.head import but_time, head_of, state_of
from flexlora.watching.tail import Tail
from flexlora.watching.values import (
    LONGEST,
    Record,
    measure,
    outcome,
    plain,
    point,
    short,
    state_words,
)

ASKED = 1.0  # Seconds between two questions whether a process plays the run.
TOLD = 200  # Sentences that are kept; those before are counted.
_OF_A_ROUND = (b'{"event": "reply"', b'{"event": "round_begun"')

Tell = Callable[[Event], str]


@final
class LiveRun:
    """One run, followed.

    slug: what addresses call it; name: what people do; arm: whose colour it has; tell: a sentence
    for an event, "" for one that it has none for. `look` reads what is new.
    """

    def __init__(self, slug: str, name: str, folder: Path, tell: Tell, arm: str = "") -> None:
        self.slug, self.name, self.folder, self.arm = slug, name, folder, arm or name
        self.failed = ""  # Why a comparison gave it up.
        self._tell = tell
        self._tail = Tail(folder / "events.jsonl")
        self._standing: Standing | None = None
        self._head: Record = {}
        self._playing, self._asked = False, 0.0
        self._was = False  # Whether there was anything of it.
        self._forget()

    def look(self) -> Record | None:
        """What has changed since the last look, None for nothing; "whole" where all is new.

        head: how it stands, replaced; points, answers, told: lines that are added; begun: the
        round under way, with its clients, before any answer.
        """
        changes: Record = {}
        trouble = ""
        try:
            while self._read(changes):
                pass
        except FlexLoRAError as error:
            trouble = str(error)
            self._tail, self._standing = Tail(self._tail.path), None  # All of it again, later.
        except OSError as error:
            trouble = f"{self._tail.path} cannot be read: {error.strerror or error}"
        head = self._now(trouble)
        before, self._head = self._head, head  # A page that opens now is told the time it is.
        if (trouble or not changes) and but_time(head) == but_time(before):
            return None
        return {"slug": self.slug, **changes, "head": head}

    def whole(self) -> Record:
        """All that `look` has given, as one."""
        found: Record = {"slug": self.slug, "whole": True, "head": self._head}
        found |= {"points": self._points, "told": list(self._told), "lost": self._lost}
        if self._begun is not None:
            found |= {"begun": self._begun, "answers": self._answers}
        return found

    @property
    def state(self) -> str:
        return str(self._head.get("state", "waiting"))

    def _forget(self) -> None:
        self._points: list[list[Any]] = []
        self._told: deque[list[Any]] = deque(maxlen=TOLD)
        self._lost = 0
        self._begun: Record | None = None
        self._answers: list[list[Any]] = []
        self._places: dict[str, int] = {}
        self._measures: dict[str, Record] = {}
        self._starts = self._failures = self._line = 0
        self._outcome: list[Any] = []
        self._time = 0.0
        self._check = ""

    def _read(self, changes: Record) -> bool:
        """Take a piece of the log; whether there was one."""
        anew, lines = self._tail.read()
        gone = self._standing is not None and not lines and not os.path.isdir(self.folder)
        if anew or gone or (lines and self._standing is None):
            changes.clear()
            changes["whole"] = True
            self._forget()
            self._standing = Standing(Run.open(self.folder)) if lines else None
            self._grow(changes)
        elif not lines and self._standing is None and (self.folder / "config.toml").is_file():
            self._standing = Standing(Run.open(self.folder))  # It is made, and was never started.
        # Of a round that is over, the log of the round says all that is shown.
        self._was |= self._standing is not None
        last = max((i for i, x in enumerate(lines) if x.startswith(_OF_A_ROUND[1])), default=0)
        for place, line in enumerate(lines):
            self._line += 1
            if place >= last or not line.startswith(_OF_A_ROUND):
                self._take(line, changes)
            self._check = line[-19:-3].decode("ascii", "replace")
        return bool(lines)

    def _take(self, line: bytes, changes: Record) -> None:
        try:
            record, _ = checked(line, self._check)
            event = Event.from_json(record)
        except (ValueError, OverflowError) as error:
            words = cut_short(" ".join(str(error).split()), LONGEST)
            self._say(changes, self._time, f"line {self._line} is damaged ({words})", "bad")
            return
        if event is None:
            self._say(changes, self._time, plain(record))
            return
        self._time = event.time
        assert self._standing is not None
        self._standing.told(event)
        self._show(event, changes)

    def _show(self, event: Event, changes: Record) -> None:
        match event:
            case RoundBegun():
                self._begin(event, changes)
            case Replied():
                values = [True, visible(event.type), short(event.loss), short(event.seconds)]
                self._answer(event.round, event.client, values, changes)
            case Spare():
                values = [None, "", None, None, "enough others came first"]
                self._answer(event.round, event.client, values, changes)
                words = f"round {event.round}: {event.client} is needed no more"
                self._say(changes, event.time, words)
            case RoundEnded():
                self._grow(changes)
            case Started():
                again = f"Resumed after round {event.round}" if self._starts else "Begun"
                self._starts += 1
                self._say(changes, event.time, again)
            case Scoring():
                words = f"Scoring: {state_words(event.state)}, on unseen examples"
                self._say(changes, event.time, words)
            case Ended():
                self._outcome = [outcome(row) for row in event.rows]
                for name in (name for row in event.rows for name in row.unseen.values):
                    self._measures.setdefault(name, measure(name))
                words = f"Finished; the state of round {event.scored_round} was scored"
                self._say(changes, event.time, words, "good")
            case Failed():
                self._failures += not event.refused
                if event.kind not in ("evaluate", "stray"):
                    values = [False, "", None, None, brief(event.reason, LONGEST)]
                    self._answer(event.round, event.client, values, changes)
                words = f"round {event.round}: {self._tell(event)}"
                self._say(changes, event.time, words, "bad")
            case _:
                words = self._tell(event) or plain(event.to_json())
                self._say(changes, event.time, words)

    def _begin(self, event: RoundBegun, changes: Record) -> None:
        self._places = {name: i for i, name in enumerate(event.clients)}
        names = [brief(name) for name in event.clients]
        self._begun = {"round": event.round, "clients": names, "at": event.time}
        self._answers = []
        changes["begun"], changes["answers"] = self._begun, []

    def _answer(self, round: int, client: str, values: list[Any], changes: Record) -> None:
        place = self._places.get(client)
        if self._begun is not None and self._begun["round"] == round and place is not None:
            answer = [place, *values]
            self._answers.append(answer)
            changes.setdefault("answers", []).append(answer)

    def _say(self, changes: Record, at: float, words: str, tone: str = "") -> None:
        self._lost += len(self._told) == TOLD
        sentence = [round(at, 3), visible(words[:1].upper() + words[1:]), tone]
        self._told.append(sentence)
        changes.setdefault("told", []).append(sentence)
        del changes["told"][:-TOLD]
        changes["lost"] = self._lost

    def _grow(self, changes: Record) -> None:
        """A point for each round that has ended since."""
        known = self._standing
        if known is None:
            return
        for record in known.done[len(self._points) :]:
            made = point(record, known.metric)
            for name in made[-1]:
                self._measures.setdefault(name, measure(name))
            self._points.append(made)
            changes.setdefault("points", []).append(made)

    def _now(self, trouble: str) -> Record:
        head: Record = {"name": visible(self.name), "arm": visible(self.arm)}
        head |= {"state": "waiting", "trouble": visible(trouble), "at": round(time.time(), 3)}
        head |= {"measures": list(self._measures.values()), "outcome": self._outcome}
        known = self._standing
        if trouble:
            return head | {"state": "damaged"}
        if known is None and self.failed:
            return head | {"state": "failed", "trouble": self.failed}
        if known is None:
            gone = self._was and not os.path.isdir(self.folder)
            return head | ({"state": "gone"} if gone else {})
        try:
            return head | self._stands(known)
        except FlexLoRAError as error:
            return head | {"state": "damaged", "trouble": visible(str(error))}

    def _stands(self, known: Standing) -> Record:
        if time.monotonic() >= self._asked:
            self._playing, self._asked = known.run.in_use(), time.monotonic() + ASKED
        state = state_of(known, self._starts > 0, self._playing)
        # Who does not play stands still at the last that was told.
        known.now = time.time if state == "running" else lambda: self._time
        trouble = self.failed if state not in ("finished", "running") else ""
        return {
            **head_of(known, self._starts > 0),
            "state": "failed" if trouble else state,
            "trouble": visible(trouble),
            "failures": self._failures,
        }
