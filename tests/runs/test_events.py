"""Every event comes back from its line; what a client says cannot break one."""

from __future__ import annotations

import inspect
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.evaluation import MeanScore
from flexlora.formats.json_text import json_text
from flexlora.runs import events
from flexlora.runs.events import (
    EVENTS,
    Allotted,
    Ended,
    Event,
    Failed,
    Halved,
    Lowered,
    Noted,
    Repeated,
    Replied,
    Rested,
    RoundBegun,
    RoundEnded,
    Scoring,
    Spare,
    Started,
)
from flexlora.runs.means import Means
from flexlora.runs.records import ClientScores, Cut, OnClients, RoundRecord, Spread
from flexlora.runs.run_directory import Run
from small import round_record, small

MEAN = MeanScore(2, 9, {"loss": 1.5, "rouge_l": 40.0})
SHARED = ClientScores(2, 9, {"loss": Spread(1.0, 2.0, 0.5)})
FULL = round_record(
    3,
    cut=Cut(0.25, {"exact": 8, "bound": 1}),
    validation=MEAN,
    on_clients=OnClients(SHARED, ClientScores(1, 4, {}), 1, 77),
)
ALL = (
    Started("runs/r", "flexlora", "tiny", 9, 2, {"low": 3}, ("mlflow",)),
    RoundBegun(3, ("a", "b")),
    Repeated(3, 1, 2, 5, 4),
    Spare(3, "c"),
    Rested(3, "c", 4, 9),
    Replied(3, "a", "low", 4, 90, 1.5, 0.25, 1000),
    Replied(3, "b", "low", 4, 90, 1.5, 0.25, 1000, 2_000_000, 8),
    Failed(3, "b", "its disk is full", "evaluate"),
    RoundEnded(FULL),
    Halved(3, 2),
    Lowered(3, "b", "8", "4", "out of memory"),
    Allotted("brought 1", ("a", "b"), "4", "memory; 2 GB of 3 GB, 9 s a round", True),
    Noted("a tracker failed"),
    Scoring("base"),
    Ended("runs/r", "flexlora", 9, 3, 5, 6, 1.25, (Means("full", "8", MEAN, None),)),
    Ended("runs/r", "flexlora", 9, 3, 5, 6, 1.25, (Means("base", "", MEAN, MEAN, {"low": MEAN}),)),
)


def line(event: Event) -> dict[str, Any]:
    text = json_text(event.to_json())
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("event", ALL, ids=lambda event: event.name)
def test_an_event_comes_back_from_its_line(event: Event) -> None:
    found = line(event)
    assert found["event"] == event.name
    back = Event.from_json(found)
    assert back == event
    assert back.time == pytest.approx(event.time, abs=0.001)


def test_every_kind_of_event_is_in_the_table() -> None:
    kinds = {kind for _, kind in inspect.getmembers(events, inspect.isclass) if is_kind(kind)}
    assert set(EVENTS.values()) == kinds == {type(event) for event in ALL}
    assert all(name == kind.name for name, kind in EVENTS.items())


def is_kind(kind: type) -> bool:
    return issubclass(kind, Event) and kind is not Event


@pytest.mark.parametrize(
    ("event", "change", "words"),
    [
        (ALL[0], {"schema": 2}, "schema is 2, this FlexLoRA reads 1"),
        (ALL[7], {"kind": "sleep"}, "kind is 'sleep', expected one of train, evaluate, late, quar"),
    ],
)
def test_what_only_another_version_would_write_is_refused(
    event: Event, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Event.from_json(line(event) | change)


def test_a_number_that_json_cannot_hold_is_nan_again() -> None:
    event = Replied(1, "a", "low", 4, 90, math.nan, math.inf, 1000)
    assert line(event)["loss"] is None
    back = Event.from_json(line(event))
    assert isinstance(back, Replied)
    assert math.isnan(back.loss)
    record = round_record(1, train_loss=math.nan, validation=MeanScore(1, 1, {"loss": math.inf}))
    again = RoundRecord.from_json(json.loads(json_text(record.to_json())))
    assert math.isnan(again.train_loss)
    assert again.scores == record.scores == {}
    assert json_text(again.to_json()) == json_text(record.to_json())


def test_who_was_missing_late_or_resting_comes_back_and_is_left_out_where_nobody_was() -> None:
    there = {"missing": (("a", "b"), ()), "spare": ("c",), "resting": ("d", "e"), "back": ("f",)}
    told = round_record(1, **there, wire_seconds=2.5, peak_bytes=7)
    assert RoundRecord.from_json(json.loads(json_text(told.to_json()))) == told
    assert (told.attempts, round_record(1).attempts) == (2, 1)
    assert not {*there, "wire_seconds", "peak_bytes"} & round_record(1).to_json().keys()
    with pytest.raises(ValueError, match="missing is 3, expected a list"):
        RoundRecord.from_json(told.to_json() | {"missing": [3]})


def test_a_record_has_the_keys_that_other_tools_read() -> None:
    found = json.loads(json_text(FULL.to_json()))
    assert found == {
        "round": 3,
        "learning_rate": 0.5,
        "clients": ["a", "b"],
        "types": {"low": 1, "high": 1},
        "failures": 0,
        "train_loss": 1.25,
        "examples": 4,
        "tokens": 90,
        "bytes_down": 1_000_000,
        "bytes_up": 2_000_000,
        "cut": {"error": 0.25, "certificates": {"exact": 8, "bound": 1}},
        "validation": {"clients": 2, "examples": 9, "loss": 1.5, "rouge_l": 40.0},
        "on_clients": {
            "global": {
                "clients": 2,
                "examples": 9,
                "metrics": {"loss": {"mean": 1.0, "worst": 2.0, "spread": 0.5}},
            },
            "tuned": {"clients": 1, "examples": 4, "metrics": {}},
            "failures": 1,
            "bytes_down": 77,
        },
        "seconds": {"clients": 9.0, "combine": 1.0},
    }
    assert RoundRecord.from_json(found) == FULL
    bare = round_record(3)
    assert not {"cut", "validation", "on_clients"} & set(bare.to_json())
    assert RoundRecord.from_json(bare.to_json()) == bare


WORDS = st.text() | st.sampled_from(['"}\n{"event": "result"}\n', "\ud800", "\x00", "\u2028"])


@given(WORDS, WORDS)
def test_nothing_that_a_client_says_breaks_a_line(client: str, reason: str) -> None:
    failed = Failed(1, client, reason)
    data = (json_text(failed.to_json()) + "\n").encode()
    assert data.splitlines(keepends=True) == [data]
    assert Event.from_json(json.loads(data)) == failed


def test_failures_are_on_disk_at_once_and_replies_wait_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(small(), tmp_path / "r")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    waits = []
    for event in ALL:
        before = len(synced)
        run.append_event(event)
        # Other processes see it, whether it is on disk or not.
        assert Run.open(run.folder).events(Event)[-1] == event
        waits.append((type(event), len(synced) > before))
    assert {kind for kind, waited in waits if not waited} == {RoundBegun, Replied}
