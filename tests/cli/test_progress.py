"""What people see of a run: the live view on a real terminal, plain lines elsewhere, the ETA."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commands import Flexlora
from flexlora.cli.console import Screen
from flexlora.cli.live import BEGINNING, LiveView
from flexlora.cli.output import LOADING, READING
from flexlora.cli.progress import Lines
from flexlora.cli.standing_words import best_words, clock, score_words, time_left
from flexlora.evaluation import MeanScore
from flexlora.runs.events import Failed, RoundBegun, RoundEnded, Scoring, Started
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from small import SMALL, round_record, small, write
from terminal import ESCAPE, on_a_terminal
from warm import Warm

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-9]|4[0-9]|9[0-7])(?:;\d+)*m")


def record(round: int, loss: float | None = None, **changes: Any) -> RoundRecord:
    """A round of 10 s of training, and 4 s of validation where it has a loss."""
    made = round_record(round, **changes)
    if loss is None:
        return made
    seconds = {**made.seconds, "validate": 4.0}
    return replace(made, validation=MeanScore(1, 2, {"loss": loss}), seconds=seconds)


def made(folder: Path, **federation: Any) -> Run:
    config = small(federation={"rounds": 4, **federation}, evaluation={"every": 2})
    resolved = {"metric": "loss", "higher_is_better": {"loss": False}}
    return Run.create(config, folder, resolved=resolved)


def started(run: Run) -> Started:
    return Started(str(run.folder), "flexlora", "tiny", 4, 0, {}, ())


def test_patience_makes_the_time_left_a_limit(tmp_path: Path) -> None:
    standing = Standing(made(tmp_path / "r", patience=1))
    assert time_left(standing) == ""
    standing.told(RoundEnded(record(1)))
    assert time_left(standing) == "at most 0:30 left"


def test_the_best_round_and_the_change_against_it(tmp_path: Path) -> None:
    run = made(tmp_path / "r")
    for number, loss in ((1, 2.0), (2, 1.5), (3, 1.75)):
        run.append_metrics(record(number, loss))
        run.write_checkpoint(number, {}, {})
    standing = Standing(run)  # As a resume begins.
    assert [best_words(standing, r) for r in standing.done[-1:]] == [
        "0.250 behind round 2, the best"
    ]
    assert score_words(standing, standing.done[-1]) == "loss 1.750"
    better = record(4, 1.0)
    standing.told(RoundEnded(better))
    assert best_words(standing, better) == "best so far, 0.500 better than before"
    assert time_left(standing) == ""
    as_good = record(5, 1.0)
    standing.told(RoundEnded(as_good))
    assert best_words(standing, as_good) == "0.000 behind round 4, the best"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0:00"), (59.6, "1:00"), (750, "12:30"), (11_100, "3:05:00")]
)
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_a_line_a_round_with_what_failed_and_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines()
    for event in (
        started(made(tmp_path / "r")),
        RoundBegun(1, ("a", "b")),
        Failed(1, "a", "its disk is full [/x]"),
        RoundEnded(record(1, failures=1)),
        RoundEnded(record(2, 0.5, sparse=True)),
        Scoring("full"),
    ):
        lines.told(event)
    assert capsys.readouterr().out.splitlines() == [
        "r: client a left out: its disk is full [/x]",
        "r: round 1/4, train loss 1.250, 1 failed, 0:00 elapsed, about 0:30 left",
        "r: round 2/4 (sparse), train loss 1.250, validation loss 0.500 (best so far), "
        "0:00 elapsed, about 0:24 left",
        "r: scoring full state on unseen examples",
    ]


@pytest.mark.parametrize("width", [40, 60, 120])
def test_the_view_fits_its_terminal_and_leaves_a_line(tmp_path: Path, width: int) -> None:
    file = io.StringIO()
    console = Screen(file=file, force_terminal=True, width=width, height=30)
    view = LiveView(console)
    view.told(started(made(tmp_path / "r")))
    view.told(RoundEnded(record(2, 0.5)))
    view.told(RoundBegun(3, ("a", "b", "c")))
    assert "3 in flight" in file.getvalue()  # At once, however short the round.
    view.told(Failed(3, "a", "its disk is full [/x] [enforce fail]"))
    shown = Console(file=io.StringIO(), width=width, height=30, record=True)
    shown.print(view)
    text = shown.export_text()
    assert all(len(line) <= width - 2 for line in text.splitlines())
    words = " ".join(text.split())
    for part in ("2/4", "round 3", "2 in flight, 1 failed", "loss 1.250 in round 2", "best so far"):
        assert part in words
    assert "1.0 MB down, 2.0 MB up" in words
    view.close()
    screen = ESCAPE.sub("", file.getvalue())
    assert "client a left out: its disk is full [/x] [enforce fail]" in screen
    assert screen.rstrip().endswith("r: stopped after round 2 of 4")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    # Enough steps that the view is drawn in the middle of rounds.
    training = {**SMALL["training"], "max_steps": 12}
    made = small(
        federation={"rounds": 2},
        training=training,
        data={"examples_per_task": 40},
        evaluation={"on_clients": "off", "types_at_end": False},
    )
    return write(made, tmp_path / "c.toml")


def test_a_real_terminal_gets_the_view_and_then_the_table(
    config: Path, warm: Warm, tmp_path: Path
) -> None:
    code, written = on_a_terminal(warm, "run", config, "--out", tmp_path / "r", width=100)
    assert code == 0, written
    assert COLOUR.search(written)
    text = ESCAPE.sub("", written)
    assert text.index(LOADING) < text.index(READING) < text.index("training examples")
    assert text.index("training examples") < text.index(BEGINNING)
    assert text.index(BEGINNING) < text.index("in flight")
    assert "in flight" in text
    assert "flexlora on tiny" in text
    assert re.search(r"r: 2 rounds in 0:\d\d, best round \d: loss \d", text)
    assert text.index("best round") < text.index("base model", text.index("best round"))
    assert text.rstrip().endswith(f"run directory: {tmp_path / 'r'}")


def test_a_run_that_does_not_begin_leaves_nothing_on_the_terminal() -> None:
    file = io.StringIO()
    view = LiveView(Screen(file=file, force_terminal=True, width=80, height=30))
    view.open()
    view.close()
    _, after = file.getvalue().split(BEGINNING, 1)
    assert ESCAPE.search(after)
    assert BEGINNING not in after.rsplit("\x1b[2K", 1)[1]
    assert "stopped" not in after


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("run", "{config}", "--dry-run"), READING),
        (("eval", "tiny", "--data", "embedded", "--tasks", 1, "--examples", 1), "scoring tiny"),
        (("run", "{config}", "--dry-run", "--quiet"), None),
    ],
)
def test_what_takes_long_is_said_and_gone_when_it_is_done(
    config: Path, warm: Warm, command: tuple[object, ...], words: str | None
) -> None:
    given = [str(x).format(config=config) for x in command]
    code, written = on_a_terminal(warm, *given, width=100)
    assert code == 0, written
    if words is None:
        assert written == ""
    else:
        _, after = written.split(words, 1)
        assert ESCAPE.search(after)  # Its line is taken back.
        assert words not in written.rsplit("\x1b[2K", 1)[1]


def test_no_color_and_a_dumb_terminal_are_honoured(
    config: Path, warm: Warm, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    code, written = on_a_terminal(warm, "run", config, "--out", out, width=60, NO_COLOR="1")
    assert code == 0, written
    assert "in flight" in written
    assert not COLOUR.search(written)
    (out / "results.json").unlink()  # Else there would be nothing to do.
    code, written = on_a_terminal(warm, "resume", out, width=60, TERM="dumb")
    assert code == 0, written
    assert "\x1b" not in written
    assert "r: scoring full state on unseen examples" in written


def test_a_resume_shows_the_rounds_that_it_plays(
    flexlora: Flexlora, config: Path, tmp_path: Path
) -> None:
    done = flexlora("run", config, "--out", tmp_path / "r")
    assert (done.code, done.err) == (0, "")
    assert [line.split(",")[0] for line in done.out.splitlines() if "train loss" in line] == [
        "r: round 1/2",
        "r: round 2/2",
    ]
    (tmp_path / "r" / "results.json").unlink()  # Else there would be nothing to do.
    done = flexlora("resume", tmp_path / "r")
    assert "train loss" not in done.out
    assert done.out.rstrip().endswith(f"run directory: {tmp_path / 'r'}")
