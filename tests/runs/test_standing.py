"""How a run stands: as it is told, and as anybody can tell from its directory alone."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flexlora.evaluation import MeanScore
from flexlora.formats.json_text import json_text
from flexlora.runs.events import (
    Ended,
    Event,
    Failed,
    Halved,
    Noted,
    Replied,
    RoundBegun,
    RoundEnded,
    Scoring,
    Started,
)
from flexlora.runs.progress import Progress
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from small import round_record, small


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = small(federation={"rounds": 4}, evaluation={"every": 2})
    resolved = {"metric": "loss", "higher_is_better": {"loss": False}}
    return Run.create(config, tmp_path / "r", resolved=resolved)


def commit(run: Run, record: RoundRecord) -> None:
    run.append_metrics(record)
    run.write_checkpoint(record.round, {}, {})


def validated(round: int, loss: float) -> RoundRecord:
    seconds = {"clients": 9.0, "combine": 1.0, "validate": 4.0}
    return round_record(round, validation=MeanScore(1, 2, {"loss": loss}), seconds=seconds)


def replied(round: int, client: str, kind: str, time: float) -> Replied:
    return Replied(round, client, kind, 4, 90, 1.0, 2.0, 1000, time=time)


def began(time: float, round: int = 0) -> Started:
    return Started("r", "flexlora", "tiny", 4, round, {"low": 2}, (), time=time)


def test_time_left_before_and_after_the_first_round(run: Run) -> None:
    now = Clock()
    standing = Standing(run, now)
    standing.told(RoundBegun(1, ("a", "b", "c", "d"), time=100.0))
    assert standing.left() is None
    now.time += 5.0
    standing.told(Failed(1, "a", "no"))
    # 5 s a client, 4 clients, 4 rounds, 5 s of them gone.
    assert standing.left() == pytest.approx(75.0)
    now.time += 5.0
    standing.told(RoundEnded(round_record(1)))
    assert standing.left() == pytest.approx(30.0)
    standing.told(RoundEnded(validated(2, 1.0)))
    # Two rounds of 10 s, and one validation of 4 s: after round 4.
    assert standing.left() == pytest.approx(24.0)
    standing.told(RoundBegun(3, ("a", "b", "c", "d"), time=now.time))
    now.time += 60.0
    assert standing.left() == 0.0


def test_the_time_left_of_many_rounds_takes_no_longer(tmp_path: Path) -> None:
    config = small(federation={"rounds": 10**9}, evaluation={"every": 1})
    resolved = {"metric": "loss", "higher_is_better": {"loss": False}}
    standing = Standing(Run.create(config, tmp_path / "long", resolved=resolved), Clock())
    standing.told(RoundEnded(validated(1, 1.0)))
    assert standing.left() == pytest.approx((10**9 - 1) * 14.0)


# A run in every state, one event after the other.
STORY: tuple[Event, ...] = (
    began(10.0),
    RoundBegun(1, ("a", "b", "c"), time=11.0),
    replied(1, "a", "low", 12.0),
    Halved(1, 1, time=12.5),
    Failed(1, "b", "no", time=13.0),
    replied(1, "c", "high", 14.0),
    RoundEnded(validated(1, 2.0), time=15.0),
    RoundBegun(2, ("a", "b", "c"), time=16.0),
    replied(2, "a", "low", 17.0),
    Failed(2, "z", "it is asleep", "evaluate", time=17.5),
    RoundEnded(validated(2, 3.0), time=18.0),
    RoundBegun(3, ("a", "b"), time=19.0),
    replied(3, "b", "low", 20.0),
    began(30.0, 2),  # It was killed, and resumed.
    Noted("a tracker failed", time=30.5),
    RoundBegun(3, ("a", "b"), time=31.0),
    replied(3, "a", "high", 32.0),
    RoundEnded(validated(3, 1.5), time=33.0),
    RoundEnded(validated(4, 1.75), time=34.0),
    Scoring("base", time=35.0),
    Scoring("full", time=36.0),
    Ended("r", "flexlora", 4, 3, 1, 1, 1.0, (), time=37.0),
)


def known(standing: Standing) -> dict[str, Any]:
    names = ("round", "drawn", "replied", "failed", "done", "best", "gain", "scoring", "ended")
    more = ("last", "in_flight", "elapsed", "rounds", "name")
    return {name: getattr(standing, name) for name in (*names, *more)} | {"left": standing.left()}


@pytest.mark.parametrize("told", range(1, len(STORY) + 1))
def test_the_directory_alone_tells_what_the_observer_was_told(run: Run, told: int) -> None:
    now = Clock()
    live = Standing(run, now)
    for event in STORY[:told]:
        if isinstance(event, RoundEnded):
            commit(run, event.record)
        run.append_event(event)
        live.told(event)
    now.time = STORY[told - 1].time + 0.75
    with run.locked():
        assert known(Standing.of(run, now)) == known(live)
    # Nobody plays it any more: time stands still.
    now.time = STORY[told - 1].time
    still = known(live)
    now.time += 1000.0
    assert known(Standing.of(run, now)) == still


def test_what_stands_in_the_middle_of_a_round(run: Run) -> None:
    for event in STORY[:5]:
        run.append_event(event)
    standing = Standing.of(run)
    assert (standing.round, standing.drawn, standing.failed) == (1, 3, 1)
    assert (dict(standing.replied), standing.in_flight) == ({"low": 1}, 1)
    assert standing.elapsed == pytest.approx(3.0)


def test_a_round_whose_end_was_not_told_has_ended(run: Run) -> None:
    """The process was killed between the round's commit and the telling."""
    for event in STORY[:6]:
        run.append_event(event)
    commit(run, validated(1, 2.0))
    standing = Standing.of(run)
    assert (standing.last, standing.round, standing.in_flight) == (1, 0, 0)
    assert [record.round for record in standing.done] == [1]


def test_whom_a_screen_left_out_had_replied(run: Run) -> None:
    standing = Standing(run)
    for event in (
        RoundBegun(1, ("a", "b")),
        replied(1, "a", "low", 1.0),
        replied(1, "b", "low", 2.0),
        Failed(1, "b", "its update lies far off", "screen"),
    ):
        standing.told(event)
    assert (standing.replied.total(), standing.failed, standing.in_flight) == (2, 0, 0)


def test_who_is_late_is_not_in_flight(run: Run) -> None:
    standing = Standing(run)
    for event in (
        RoundBegun(1, ("a", "b", "c")),
        Failed(1, "a", "2 h on its device", "late"),
        replied(1, "b", "low", 1.0),
        Failed(1, "b", "answers job 1-1, which is not open", "stray"),
    ):
        standing.told(event)
    assert (standing.replied.total(), standing.failed, standing.in_flight) == (1, 1, 1)


VALUES = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0])


@given(st.lists(VALUES, max_size=6))
@example([math.nan, 2.0, 1.0])
@example([-math.inf, 1.0])
def test_the_best_round_is_the_one_that_the_session_chose(values: list[float]) -> None:
    """Whatever the metric gave; and a session that is resumed after any of them chooses alike."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = {"metric": "loss", "higher_is_better": {"loss": False}}
        standing = Standing(Run.create(small(), Path(folder) / "r", resolved=resolved))
        progress = Progress()
        for round, value in enumerate(values, 1):
            standing.told(RoundEnded(validated(round, value)))
            progress = progress.after(round, value)
            best = standing.best.round if standing.best else 0
            assert best == progress.best_round
            told = json.loads(json_text(progress.to_json(), strict=True))
            assert Progress.from_json(told) == progress


def test_a_round_is_counted_once(run: Run) -> None:
    commit(run, validated(1, 2.0))
    standing = Standing(run)
    standing.told(RoundEnded(validated(1, 2.0)))
    assert len(standing.done) == 1
    assert standing.gain is None


def test_a_line_that_is_being_written_is_left_out(run: Run) -> None:
    for event in STORY[:3]:
        run.append_event(event)
    with open(run.folder / "events.jsonl", "a") as file:
        file.write(json.dumps(STORY[4].to_json())[:-9])
    assert Standing.of(run).failed == 0
