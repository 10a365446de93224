"""A run as its log tells it, in plain values that grow: what a page is sent whole, then in parts."""

from __future__ import annotations

import math
import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from flexlora.errors import FlexLoRAError, cut_short
from flexlora.evaluation.metrics import METRICS
from flexlora.formats.checked import checked
from flexlora.formats.visible import all_visible, brief, visible
from flexlora.runs.events import (
    Ended,
    Event,
    Failed,
    Replied,
    RoundBegun,
    RoundEnded,
    Scoring,
    Started,
)
from flexlora.runs.records import RoundRecord
from flexlora.runs.results import STATE_WORDS
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from flexlora.watching.tail import Tail

ASKED = 1.0  # Seconds between two questions whether a process plays the run.
TOLD = 200  # Sentences that are kept; those before are counted.
_FIELDS = 200  # Characters of an event that nobody has words for.
_OF_A_ROUND = (b'{"event": "reply"', b'{"event": "round_begun"')

Record = dict[str, Any]
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
        if not changes and _but_time(head) == _but_time(self._head):
            return None
        self._head = head
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
        self._starts = self._failures = self._line = self._last = 0
        self._time = 0.0
        self._check = ""

    def _read(self, changes: Record) -> bool:
        """Take a piece of the log; whether there was one."""
        anew, lines = self._tail.read()
        if anew or (lines and self._standing is None):
            if anew and not lines:
                self._standing = None
            changes.clear()
            changes["whole"] = True
            self._forget()
            self._standing = Standing(Run.open(self.folder)) if lines else None
            self._grow(changes)
        elif not lines and self._standing is None and (self.folder / "config.toml").is_file():
            self._standing = Standing(Run.open(self.folder))  # It is made, and was never started.
        # Of a round that is over, the log of the round says all that is shown.
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
            words = cut_short(" ".join(str(error).split()), _FIELDS)
            return self._say(changes, self._time, f"line {self._line} is damaged ({words})", "bad")
        self._time = event.time if event is not None else float(record.get("time") or self._time)
        if event is None:
            return self._say(changes, self._time, _plain(record))
        assert self._standing is not None
        self._standing.told(event)
        self._show(event, changes)

    def _show(self, event: Event, changes: Record) -> None:
        match event:
            case RoundBegun():
                self._begin(event, changes)
            case Replied():
                values = [True, visible(event.type), _short(event.loss), _short(event.seconds)]
                self._answer(event.round, event.client, values, changes)
            case RoundEnded():
                self._last = max(self._last, event.record.round)
                self._grow(changes)
            case Started():
                again = f"Resumed after round {event.round}" if self._starts else "Begun"
                self._starts += 1
                self._say(changes, event.time, again)
            case Scoring():
                words = STATE_WORDS.get(event.state, f"clients of {event.state}")
                self._say(changes, event.time, f"Scoring: {words}, on unseen examples")
            case Ended():
                words = f"Finished; the state of round {event.scored_round} was scored"
                self._say(changes, event.time, words, "good")
            case Failed():
                self._failures += 1
                if event.kind != "evaluate":
                    values = [False, "", None, None, brief(event.reason, _FIELDS)]
                    self._answer(event.round, event.client, values, changes)
                words = f"round {event.round}: {self._tell(event)}"
                self._say(changes, event.time, words, "bad")
            case _:
                words = self._tell(event) or _plain(event.to_json())
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
            point = self._point(known, record)
            self._points.append(point)
            changes.setdefault("points", []).append(point)

    def _point(self, known: Standing, record: RoundRecord) -> list[Any]:
        values = {name: _short(value) for name, value in record.scores.items()}
        for name in values:
            self._measures.setdefault(name, _measure(name))
        spread = record.on_clients and record.on_clients.shared.metrics.get(known.metric)
        if spread and math.isfinite(spread.mean):
            name = f"{known.metric} on clients"
            values[name] = _short(spread.mean)
            of = _measure(known.metric)
            of |= {"name": visible(name), "label": f"{of['label']}, on clients"}
            self._measures.setdefault(name, of)
        return [
            record.round,
            _short(record.train_loss),
            len(record.clients),
            record.failures,
            _short(record.total_seconds),
            record.total_bytes_down,
            record.bytes_up,
            values,
        ]

    def _now(self, trouble: str) -> Record:
        head: Record = {"name": visible(self.name), "arm": visible(self.arm)}
        head |= {"state": "waiting", "trouble": visible(trouble), "at": round(time.time(), 3)}
        known = self._standing
        if trouble:
            return head | {"state": "damaged"}
        if known is None:
            return head | ({"state": "failed", "trouble": self.failed} if self.failed else {})
        try:
            return head | self._standing_now(known)
        except FlexLoRAError as error:
            return head | {"state": "damaged", "trouble": visible(str(error))}

    def _standing_now(self, known: Standing) -> Record:
        if time.monotonic() >= self._asked:
            self._playing, self._asked = known.run.in_use(), time.monotonic() + ASKED
        state = _state(known, bool(self._starts), self._playing)
        running, config = state == "running", known.config
        if state != "finished" and not running and self.failed:
            state = "failed"
        known.now = time.time if running else lambda: self._time
        best, left = known.best, known.left()
        return {
            "state": state,
            "trouble": visible(self.failed) if state == "failed" else "",
            "folder": visible(str(self.folder)),
            "resume": visible(f"flexlora resume {shlex.quote(str(self.folder))}"),
            "rule": visible(config.rule_name),
            "model": visible(config.model.name),
            "rounds": known.rounds,
            "last": known.last,
            "round": known.round,
            "drawn": known.drawn,
            "replied": all_visible(dict(sorted(known.replied.items()))),
            "failed": known.failed,
            "flight": known.in_flight,
            "began": round(known.began, 3) if self._starts else None,
            "elapsed": round(known.elapsed, 1) if self._starts else None,
            "left": None if left is None or known.last >= known.rounds else _short(left),
            "patience": config.federation.patience > 0,
            "best": None if best is None else best.round,
            "decides": visible(self._decides(known)),
            "failures": self._failures,
            "scoring": known.scoring,
            "measures": list(self._measures.values()),
        }

    def _decides(self, known: Standing) -> str:
        """Among the names of `measures`."""
        by_clients = known.config.evaluation.decide_by == "clients"
        return f"{known.metric} on clients" if by_clients else known.metric


def _state(known: Standing, begun: bool, playing: bool) -> str:
    """In the words of `overview`."""
    if known.ended:
        return "finished"
    if playing:
        return "running"
    if not begun:
        return "never started"
    patience = known.config.federation.patience
    exhausted = 0 < patience <= known.progress.stale
    return "not scored" if exhausted or known.last >= known.rounds else "stopped"


def _but_time(head: Mapping[str, Any]) -> Record:
    return {key: x for key, x in head.items() if key not in ("at", "elapsed", "left")}


def _plain(record: Mapping[str, Any]) -> str:
    """An event that nobody here has words for: its name and its fields as they stand."""
    fields = {k: x for k, x in record.items() if k not in ("event", "time", "check")}
    told = ", ".join(f"{name} {_value(value)}" for name, value in fields.items())
    name = str(record.get("event")).replace("_", " ")
    return brief(f"{name}: {told}" if told else name, _FIELDS)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(item)}" for name, item in list(value.items())[:20])
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value[:20]))
    return str(value)[: 2 * _FIELDS]


def _measure(name: str) -> Record:
    metric = METRICS.get(name)
    label = name if metric is None or not metric.label else metric.label
    axis = "loss (nats per token)" if name == "loss" else label  # As the report has it.
    digits = 3 if metric is None else metric.digits
    return {"name": name, "label": visible(label), "axis": visible(axis), "digits": digits}


def _short(value: float) -> float | None:
    """Five digits are more than a screen shows; JSON has no NaN."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
