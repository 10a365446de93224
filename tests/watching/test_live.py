"""What a page is told of a run: whole at first, then parts that add up to the same whole."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.cli.standing_words import event_words
from flexlora.evaluation import MeanScore
from flexlora.formats.checked import checked, with_check
from flexlora.formats.json_text import json_text
from flexlora.runs.events import Event, Failed, Noted, Spare
from flexlora.runs.records import ClientScores, OnClients, Spread
from flexlora.runs.run_directory import Run
from flexlora.watching import live, tail
from flexlora.watching.live import LiveRun
from flexlora.watching.values import measure, point, short
from small import round_record
from watching.played import Played

Changes = dict[str, Any]


def watched(run: Run) -> LiveRun:
    return LiveRun("r", "r", run.folder, event_words)


def added(state: Changes | None, changes: Changes | None) -> Changes:
    """As stream.js does it: head and begun are replaced, the others are added to."""
    if changes is None:
        assert state is not None
        return state
    blank: Changes = {"points": [], "told": [], "answers": [], "lost": 0}
    found = blank if changes.get("whole") else dict(state or blank)
    found |= {key: changes[key] for key in ("head", "lost") if key in changes}
    if "begun" in changes:
        found |= {"begun": changes["begun"], "answers": []}
    for key in ("points", "answers", "told"):
        found[key] = [*found[key], *changes.get(key, [])]
    found["told"] = found["told"][-live.TOLD :]
    return found


def same(state: Changes, run: LiveRun) -> None:
    whole = added(None, json.loads(json.dumps(run.whole())))
    assert json.loads(json.dumps(state)) == whole


def sentences(run: LiveRun) -> list[str]:
    return [words for _, words, _ in run.whole()["told"]]


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    run, first = watched(played.run), played.clients[0]
    state = added(None, run.look())
    assert state["head"]["state"] == "never started"
    with played.run.locked():
        played.start()
        played.begin(1)
        state = added(state, run.look())
        assert state["begun"]["clients"] == played.clients
        played.reply(1, played.clients[1:3])
        played.fail(1, first, "out of memory")
        state = added(state, run.look())
        assert [answer[:2] for answer in state["answers"]] == [[1, True], [2, True], [0, False]]
        head = state["head"]
        assert (head["round"], head["drawn"], head["flight"], head["failed"]) == (1, 6, 3, 1)
        assert run.look() is None
        played.reply(1, played.clients[3:])
        played.end(1, [first])
        state = added(state, run.look())
        assert [point[0] for point in state["points"]] == [1]
        assert state["points"][0][2:4] == [5, 1]
        assert state["points"][0][7] == {"loss": pytest.approx(played.loss(1) + 0.2, rel=1e-4)}
        same(state, run)
        for round in range(2, 6):
            played.whole_round(round)
        played.finish()
        state = added(state, run.look())
    assert [point[0] for point in state["points"]] == [1, 2, 3, 4, 5]
    assert state["head"]["state"] == "finished"
    assert state["head"]["outcome"] == [["full state", "8", {"loss": 1.5}]]
    assert sentences(run) == [
        "Begun",
        "Round 1: client client-0000 left out: out of memory",
        "Scoring: full state, on unseen examples",
        "Finished; the state of round 5 was scored",
    ]
    same(state, run)
    late = watched(played.run)
    late.look()
    assert late.whole()["points"] == state["points"]
    assert sentences(late) == sentences(run)


def test_a_kill_and_a_resume_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ASKED", 0.0)
    played = Played(tmp_path / "r")
    run = watched(played.run)
    with played.run.locked():
        played.start()
        played.whole_round(1)
        played.begin(2)
        played.reply(2, played.clients[:4])
        state = added(None, run.look())
        assert state["head"]["state"] == "running"
    state = added(state, run.look())
    assert state["head"]["state"] == "stopped"
    assert (state["head"]["round"], state["head"]["flight"]) == (2, 2)
    assert state["head"]["resume"] == f"flexlora resume {played.run.folder}"
    again = Run.open(played.run.folder)
    with again.locked():
        again.truncate_log(1)  # As a resume does: what was told of round 2 goes.
        played.run = again
        played.start(1)
        changes = run.look()
        assert changes is not None
        assert changes["whole"]
        state = added(state, changes)
        assert (state["head"]["state"], state["head"]["round"]) == ("running", 0)
        assert sentences(run) == ["Begun", "Resumed after round 1"]
        played.whole_round(2)
        state = added(state, run.look())
        assert [point[0] for point in state["points"]] == [1, 2]
        same(state, run)


def test_what_is_not_known_here_is_shown_as_it_stands(tmp_path: Path) -> None:
    """A kind of event of another version, and one that nobody has words for."""
    played = Played(tmp_path / "r")
    played.start()
    log = played.run.folder / "events.jsonl"
    last = json.loads(log.read_bytes().splitlines()[-1])["check"]
    event = {"event": "client_rested", "time": 7.5, "client": "c\u202e1", "rounds": [2, 3]}
    line, _ = with_check({**event, "why": {"failures": 3}}, last)
    log.write_bytes(log.read_bytes() + line.encode() + b"\n")
    played.run = Run.open(played.run.folder)
    played.run.append_event(Noted("a note"))
    run = watched(played.run)
    run.look()
    told = "Client rested: client c\\u202e1, rounds 2, 3, why failures 3"
    assert sentences(run) == ["Begun", told, "A note"]

    def nothing(_: Event) -> str:
        return ""

    silent = LiveRun("r", "r", played.run.folder, nothing)
    silent.look()
    assert sentences(silent)[-1] == "Note: text a note"


def test_a_damaged_line_is_told_with_its_number(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    played.start()
    played.whole_round(1)
    played.fail(1, "a", "its disk is full")
    log = played.run.folder / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b"disk is full", b"disk is fuII"))
    run = watched(played.run)
    run.look()
    assert sentences(run)[-1].startswith("Line 10 is damaged (it is not as it was written")


def test_a_run_whose_files_are_damaged_says_so_and_recovers(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    played.start()
    played.whole_round(1)
    config = played.run.folder / "config.toml"
    text = config.read_bytes()
    config.write_bytes(text.replace(b"tiny", b"tinz"))
    run = watched(played.run)
    state = added(None, run.look())
    assert state["head"]["state"] == "damaged"
    assert "config.toml" in state["head"]["trouble"]
    config.write_bytes(text)
    state = added(state, run.look())
    assert state["head"]["state"] == "stopped"
    assert len(state["points"]) == 1


def test_replies_of_rounds_that_are_over_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a page that is opened late needs the last round's alone."""
    played = Played(tmp_path / "r", clients=50, rounds=8)
    played.start()
    for round in range(1, 9):
        played.whole_round(round)
    taken: list[str] = []

    def counting(line: bytes, before: str) -> tuple[Changes, str]:
        record, check = checked(line, before)
        taken.append(record["event"])
        return record, check

    monkeypatch.setattr("flexlora.watching.live.checked", counting)
    run = watched(played.run)
    run.look()
    assert len(run.whole()["answers"]) == 50
    assert (taken.count("reply"), taken.count("round_begun")) == (50, 1)
    assert taken.count("round") == 8
    monkeypatch.setattr(tail, "PIECE", 5000)
    pieces = watched(played.run)
    pieces.look()
    assert pieces.whole()["answers"] == run.whole()["answers"]


def test_what_clients_scored_stands_beside_the_servers_scores() -> None:
    """By a name of its own, since both may be of one metric."""
    scores = ClientScores(2, 9, {"rouge_l": Spread(30.0, 10.0, 5.0), "loss": Spread(2.0, 3.0, 0.5)})
    record = round_record(
        3,
        validation=MeanScore(2, 9, {"loss": 1.25, "bits": math.nan}),
        on_clients=OnClients(scores, None, 0, 500),
    )
    values = point(record, "rouge_l")
    assert values == [3, 1.25, 2, 0, 10.0, 1_000_500, 2_000_000, values[-1]]
    assert values[-1] == {"loss": 1.25, "rouge_l on clients": 30.0}
    decided = replace(record, on_clients=OnClients(scores, None, 0, 500, 28.5))
    assert point(decided, "rouge_l")[-1]["rouge_l on clients"] == 28.5
    assert measure("rouge_l on clients")["label"] == "ROUGE-L, on clients"
    assert measure("loss")["axis"] == "loss (nats per token)"
    assert measure("my_metric")["label"] == "my_metric"


def test_sentences_are_bounded_and_counted(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    run = watched(played.run)
    played.start()
    state = added(None, run.look())
    for i in range(live.TOLD + 30):
        played.fail(1, "a", f"reason {i}")
        if i % 90 == 0:
            state = added(state, run.look())
    state = added(state, run.look())
    assert len(state["told"]) == live.TOLD
    assert state["lost"] == 31
    assert state["head"]["failures"] == live.TOLD + 30
    same(state, run)


def test_an_answer_that_is_refused_crosses_nobody_out(tmp_path: Path) -> None:
    """Who answers twice has replied; whose answer is of another round is still on its way."""
    played = Played(tmp_path / "r", clients=3)
    run = watched(played.run)
    played.start()
    played.begin(1)
    first, second, third = played.clients
    played.reply(1, [first])
    for client in (first, second):
        played.run.append_event(Failed(1, client, "answers job 0-0, which is not open", "stray"))
    played.run.append_event(Failed(1, third, "late: 2 h on its device", "late"))
    state = added(None, run.look())
    assert [(place, replied) for place, replied, *_ in state["answers"]] == [(0, True), (2, False)]
    assert state["head"]["failures"] == 1
    assert (state["head"]["flight"], state["head"]["failed"]) == (1, 1)
    assert sum("is refused" in words for _, words, _ in state["told"]) == 2


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0.5, 10**400, 1e308, -1e308, 2**63, "", "x" * 5000, "\u202e\n\x1b", "\ud800"),
    *([], [[]], [1, "a", None], {}, {"a": {"b": [1]}}),
)


def test_no_line_that_somebody_changed_ends_a_look(tmp_path: Path) -> None:
    """Whatever it holds, with a check that fits: the page is told what can be told of it."""
    played = Played(tmp_path / "r", clients=3, rounds=4)
    played.start()
    played.whole_round(1)
    played.begin(2)
    played.reply(2, played.clients[:1])
    played.fail(2, played.clients[1])
    played.finish()
    log = played.run.folder / "events.jsonl"
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    draw = random.Random(0)
    for _ in range(150):
        changed = json.loads(json.dumps(lines))
        spoil(draw.choice(changed), draw)
        text, last = "", ""
        for line in changed:
            line.pop("check", None)
            one, last = with_check(line, last)
            text += one + "\n"
        log.write_text(text)
        run = watched(played.run)
        run.look()
        json_text([run.whole()]).encode()


def spoil(record: Any, draw: random.Random) -> None:
    """Put something odd in the place of one of its entries, at any depth."""
    key = draw.choice(list(record) if isinstance(record, dict) else range(len(record)))
    if isinstance(record[key], dict | list) and record[key] and draw.random() < 0.7:
        spoil(record[key], draw)
    else:
        record[key] = draw.choice(ODD)


def test_a_page_that_opens_late_is_told_the_time_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path / "r")
    played.start()
    played.begin(1)
    run = watched(played.run)
    with played.run.locked():
        run.look()
        before = run.whole()["head"]
        later = time.time() + 500
        monkeypatch.setattr(time, "time", lambda: later)
        assert run.look() is None
        now = run.whole()["head"]
    assert float(now["elapsed"]) - float(before["elapsed"]) > 400
    assert now["at"] > before["at"]


def test_an_answer_that_is_needed_no_more_leaves_nobody_in_flight(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    played.start()
    played.begin(1)
    played.reply(1, played.clients[:5])
    played.run.append_event(Spare(1, played.clients[5]))
    run = watched(played.run)
    run.look()
    assert [answer[1] for answer in run.whole()["answers"]] == [True] * 5 + [None]
    assert sentences(run)[-1] == f"Round 1: {played.clients[5]} is needed no more"
    assert run.whole()["head"]["flight"] == 0


def test_a_run_whose_folder_has_gone_says_so_and_may_come_again(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    run = watched(played.run)
    run.look()
    assert run.state == "never started"
    shutil.rmtree(played.run.folder)
    run.look()
    assert (run.state, run.whole()["points"]) == ("gone", [])
    Played(tmp_path / "r")
    run.look()
    assert run.state == "never started"


def test_damage_is_news_once(tmp_path: Path) -> None:
    played = Played(tmp_path / "r")
    played.start()
    played.whole_round(1)
    path = played.run.folder / "metrics.jsonl"
    path.write_bytes(b"{" + path.read_bytes())
    run = watched(played.run)
    assert run.look() is not None
    assert run.state == "damaged"
    assert run.whole()["head"]["measures"] == []
    assert [run.look() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("value", [44104.703, 1234567.0, 12.3456, -3.21987])
def test_no_digit_that_is_shown_is_made_up(value: float) -> None:
    assert short(value) == pytest.approx(value, abs=1e-4, rel=0)
    assert short(0.000123456) == 0.00012346
    assert short(math.inf) is None
