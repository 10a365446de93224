"""Names and reasons of others reach the terminal as text, wherever a command shows them."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from commands import Done, Flexlora
from flexlora.cli.console import Screen
from flexlora.cli.live import LiveView
from flexlora.cli.partition_view import draw_partition
from flexlora.cli.progress import Lines
from flexlora.cli.tables import scores_table
from flexlora.evaluation import Scores
from flexlora.evaluation.aggregate import ClientScore
from flexlora.federation.census import Census, Holding
from flexlora.runs.events import Failed, Started
from flexlora.runs.run_directory import Run
from peft_folders import pair, write_folder
from small import small

# Clears the screen, sets the window's title, turns the direction, ends a line, is no character.
EVIL = "x\x1b[2J\x1b]0;t\x07\x9b31m\u202egnp\u2028\r\nok \ud800"
SEEN = r"x\x1b[2J\x1b]0;t\x07\x9b31m\u202egnp"
NAME = EVIL.removesuffix(" \ud800")  # What a file can hold.
TAME = {"\n"}


def assert_tame(text: str) -> None:
    """No control or direction character, but for the ends of lines; no half of a pair."""
    text.encode()
    bad = {x for x in text if unicodedata.category(x) in ("Cc", "Cf", "Zl", "Zp", "Cs")}
    assert bad <= TAME, bad


def shown(done: Done) -> str:
    assert done.code == 0, done
    assert_tame(done.out + done.err)
    return done.out


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    tensors = pair(f"a.{NAME.splitlines()[0]}", 3, 4, 1)
    return write_folder(tmp_path / "a", tensors, r=1, base_model_name_or_path=NAME)


def test_layers_and_bases_of_an_adapter(flexlora: Flexlora, adapter: Path, tmp_path: Path) -> None:
    text = shown(flexlora("inspect", adapter))
    assert f"made for {SEEN}" in text
    assert SEEN in text.splitlines()[-1]
    other = shutil.copytree(adapter, tmp_path / "b")
    merged = flexlora("merge", adapter, other, "--rank", 1, "--out", tmp_path / "m")
    assert SEEN in shown(merged)
    for path in (adapter, tmp_path / "m"):
        found = shown(flexlora("inspect", path, "--json"))
        assert EVIL[:10] in next(iter(json.loads(found)["layers"]))


def test_what_an_error_quotes(flexlora: Flexlora, tmp_path: Path) -> None:
    done = flexlora("inspect", tmp_path / NAME)
    assert done.code == 2
    assert_tame(done.err)
    assert done.err.count("\n") == 1
    assert SEEN in done.err


def test_clients_and_reasons_of_a_run(flexlora: Flexlora, tmp_path: Path) -> None:
    resolved = {"layers": 8, "clients_per_round": 2}
    run = Run.create(small(), tmp_path / "r", resolved=resolved)
    run.append_event(Failed(1, NAME, f"reason {NAME}"))
    text = shown(flexlora("inspect", run.folder, "--all"))
    assert f"clients {SEEN}" in text
    assert "reason x\\x1b[2J" in text


def test_clients_and_categories_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    row = ClientScore(f"{EVIL}/1", EVIL, 1, {"loss": 1.0})
    scores_table(Scores((row,)))
    holding = Holding(EVIL, EVIL, 2, 0, 0, {EVIL: 2})
    draw_partition(Census("client", "category", (holding,), (), ()))
    text = capsys.readouterr().out
    assert_tame(text)
    assert text.count(r"x\x1b[2J") >= 4


@pytest.mark.parametrize("live", [False, True])
def test_what_is_told_while_a_run_plays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], live: bool
) -> None:
    run = Run.create(small(), tmp_path / "r")
    file = io.StringIO()
    screen = Screen(file=file, force_terminal=True, width=300, color_system=None)
    observer = LiveView(screen) if live else Lines()
    for event in (Started(str(run.folder), "a", "b", 3, 0, {}, ()), Failed(1, EVIL, EVIL)):
        observer.told(event)
    if isinstance(observer, LiveView):
        observer.close()
    text = file.getvalue() if live else capsys.readouterr().out
    assert f"client {SEEN}" in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


def test_a_name_is_measured_as_it_is_drawn() -> None:
    from rich.table import Table

    file = io.StringIO()
    table = Table(box=None)
    table.add_column("client")
    table.add_column("n")
    table.add_row(EVIL, "1")
    table.add_row("[red]:dog:", "2")
    Screen(file=file, width=200).print(table)
    text = file.getvalue()
    assert_tame(text)
    assert r"\u2028\r\nok \ud800" in text
    assert "[red]:dog:" in text
    assert len({len(line.rstrip()) for line in text.splitlines()[1:]}) == 1
