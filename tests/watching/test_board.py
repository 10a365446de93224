"""All runs together: those that come later, comparisons, and what a page that was away is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from comparing.comparisons import comparison
from flexlora.cli.standing_words import event_words
from flexlora.comparing.cells import cell_folder
from flexlora.comparing.failures import Failures
from flexlora.comparing.folder import begin
from flexlora.errors import RunError, TrainingError
from flexlora.watching import board, places
from flexlora.watching.board import Board
from flexlora.watching.places import Places
from watching.played import Played


def made(*folders: Path) -> Board:
    found = Board(Places(folders, event_words))
    found.look(0.0)
    return found


def slugs(messages: list[dict[str, Any]]) -> list[str]:
    return [message["slug"] for message in messages if "slug" in message]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look looks for new runs, too."""
    monkeypatch.setattr(places, "_AGAIN", 0.0)


def test_a_page_is_told_what_came_since_it_was_away(tmp_path: Path) -> None:
    played = [Played(tmp_path / name) for name in ("a", "b")]
    seen = made(*(x.run.folder for x in played))
    last, messages = seen.since("", "")
    assert slugs(messages) == ["a", "b"]
    assert all(message["whole"] for message in messages[1:])
    assert seen.since(last, "") == (last, [])
    played[1].start()
    played[1].begin(1)
    assert seen.look(100.0)
    now, messages = seen.since(last, "")
    assert slugs(messages) == ["b"]
    assert "begun" not in messages[0]  # It is for the page of the run alone.
    assert seen.since(last, "a") == (now, [])
    _, messages = seen.since(last, "b")
    assert messages[0]["begun"]["round"] == 1
    assert not seen.look(200.0)


@pytest.mark.parametrize("last", ["", "x", "ffffffff.0", "{server}.999", "{server}.-1", "{long}"])
def test_a_page_that_knows_nothing_of_this_server_is_told_all(tmp_path: Path, last: str) -> None:
    seen = made(Played(tmp_path / "a").run.folder)
    server = seen.since("", "")[0].partition(".")[0]
    last = last.format(server=server, long=f"{server}.{'9' * 5000}")
    _, messages = seen.since(last, "")
    assert messages[1]["whole"]


def test_a_page_that_was_away_too_long_is_told_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_KEPT", 3)
    played = Played(tmp_path / "a")
    seen = made(played.run.folder)
    last, _ = seen.since("", "")
    for i in range(5):
        played.fail(1, f"c{i}")
        seen.look(100.0 * (i + 1))
    _, messages = seen.since(last, "")
    assert messages[1]["whole"]


@pytest.mark.usefixtures("at_once")
def test_runs_that_come_to_a_folder_are_found(tmp_path: Path) -> None:
    Played(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "notes").mkdir()
    seen = made(tmp_path / "runs")
    last, messages = seen.since("", "")
    assert slugs(messages) == ["a"]
    Played(tmp_path / "runs" / "a b")
    seen.look(100.0)
    _, messages = seen.since(last, "")
    assert messages[0]["layout"]["runs"] == 2
    assert slugs(messages) == ["a-b"]


@pytest.mark.usefixtures("at_once")
def test_a_comparison_shows_its_cells_before_they_are_there(tmp_path: Path) -> None:
    asked, out = comparison(rules=["fedit", "flexlora"], seeds=[0, 1]), tmp_path / "ours"
    begin(asked, out)
    seen = made(out)
    last, messages = seen.since("", "")
    cells = messages[0]["layout"]["compared"]["ours"]["cells"]
    assert cells["fedit"] == {0: "fedit-seed-0", 1: "fedit-seed-1"}
    assert {message["head"]["state"] for message in messages[1:]} == {"waiting"}
    arm = asked.arm("fedit")
    played = Played(cell_folder(out, arm.slug, 0))
    played.start()
    played.whole_round(1)
    key = cell_folder(out, arm.slug, 1).relative_to(out).as_posix()
    Failures(out).add(key, TrainingError("the loss is not finite"))
    seen.look(100.0)
    _, messages = seen.since(last, "")
    heads = {message["slug"]: message["head"] for message in messages if "head" in message}
    assert heads["fedit-seed-0"]["state"] == "stopped"
    assert heads["fedit-seed-1"]["state"] == "failed"
    assert "the loss is not finite" in heads["fedit-seed-1"]["trouble"]
    Played(out / "tuning" / arm.slug / "0.01" / "7")
    seen.look(200.0)
    layout = seen.since(last, "")[1]
    found = [message["layout"] for message in layout if "layout" in message][-1]
    assert found["compared"]["ours"]["tuning"] == ["tuning-fedit-learning-rate-0-01-seed-7"]


@pytest.mark.usefixtures("at_once")
def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    Played(runs / "a")
    seen = made(runs)
    last, _ = seen.since("", "")
    (runs / "cut").mkdir()
    (runs / "cut" / "compare.toml").write_text("[compare]\n")
    (runs / "locked").mkdir()
    is_file = Path.is_file

    def closed(path: Path) -> bool:
        if path.parent.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", closed)
    Played(runs / "z")
    assert seen.look(100.0)
    last, messages = seen.since(last, "")
    assert slugs(messages) == ["z"]
    cut, locked = messages[0]["layout"]["unread"]
    assert cut.startswith("cut: ")
    assert "compare.toml cannot be used" in cut
    assert locked == "locked: Permission denied"
    assert slugs(made(runs).since("", "")[1]) == ["a", "z"]  # Where it is there from the first.
    monkeypatch.undo()
    shutil.rmtree(runs / "cut")
    assert Board(Places([runs], event_words)).places.unread == {}


def test_a_linked_run_is_named_until_it_is_given(tmp_path: Path) -> None:
    runs, away = tmp_path / "runs", Played(tmp_path / "away").run.folder
    Played(runs / "a")
    (runs / "l").symlink_to(away)
    (runs / "nothing").symlink_to(tmp_path)
    (runs / "dangling").symlink_to(tmp_path / "gone")
    _, messages = made(runs).since("", "")
    assert slugs(messages) == ["a"]
    assert messages[0]["layout"]["unread"] == [
        "l: a link, which is not followed: give where it leads"
    ]
    assert Places([runs, away], event_words).unread == {}


def test_names_are_told_apart(tmp_path: Path) -> None:
    folders = [Played(tmp_path / x / "..r").run.folder for x in ("a", "b")]
    assert slugs(made(*folders).since("", "")[1]) == ["r", "r-2"]


@pytest.mark.usefixtures("at_once")
def test_more_runs_than_one_server_watches_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MOST", 2)
    for name in "abc":
        Played(tmp_path / "runs" / name)
    seen = made(tmp_path / "runs")
    seen.look(1.0)
    _, messages = seen.since("", "")
    assert messages[0]["layout"]["beyond"] == 1
    assert slugs(messages) == ["a", "b"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    run = Played(tmp_path / "r").run.folder
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for given, words in (
        ([tmp_path / "none"], "none does not exist"),
        ([tmp_path / "file"], "file is a file"),
        ([tmp_path / "empty"], "no folder of runs"),
        ([run, run], "is given twice"),
    ):
        with pytest.raises(RunError, match=words):
            Places(given, event_words)
