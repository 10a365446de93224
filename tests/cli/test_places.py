"""A wrong place to write to is told before any work, with the path and what stands in its way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.cli.places import require_place
from flexlora.errors import RunError
from flexlora.formats.atomic import atomic_file, atomic_folder
from peft_folders import pair, write_folder
from report.synthetic import synthetic_run
from small import small, write


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file where folders are wanted, beside all that commands read."""
    monkeypatch.chdir(tmp_path)

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("work was done before the place was looked at")

    for work in ("session.prepare", "session.Parent.open"):
        monkeypatch.setattr(f"flexlora.federation.{work}", loaded)
    write(small(), Path("c.toml"))
    synthetic_run(Path("r"), rounds=1, clients=2, unseen=1, labels=1, layers=1)
    write_folder(Path("a"), pair("x", 3, 4, 1), r=1)
    Path("q.toml").touch()
    return Path("q.toml")


COMMANDS: dict[str, tuple[object, ...]] = {
    "run": ("run", "c.toml", "--out", "q.toml/x"),
    "run deep": ("run", "c.toml", "--out", "q.toml/x/y/z"),
    "run.out": ("run", "c.toml", "--set", "run.out=q.toml"),
    "continue": ("continue", "r", "--out", "q.toml/x"),
    "demo": ("demo", "--out", "q.toml"),
    "export": ("export", "r", "--rank", "2", "--out", "q.toml/x"),
    "merge": ("merge", "a", "a", "--rank", "2", "--out", "q.toml/x"),
    "report": ("report", "r", "--out", "q.toml/x/page.html"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("file")
def test_a_file_where_a_folder_should_be(flexlora: Flexlora, name: str) -> None:
    option = "run.out" if name == "run.out" else "--out"
    words = ("q.toml", "cannot be made: q.toml is a file", f"choose another {option}")
    assert_one_sentence(flexlora(*COMMANDS[name]), *words)


LONG = {
    **{name: command for name, command in COMMANDS.items() if name not in ("run.out", "demo")},
    "dry run": ("run", "c.toml", "--dry-run", "--out", "q.toml/x"),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize(
    ("place", "most"), [("x" * 230, 200), ("é" * 110, 200), ("x" * 300 + "/y", 255)]
)
@pytest.mark.usefixtures("file")
def test_a_name_that_no_folder_can_have(
    flexlora: Flexlora, name: str, place: str, most: int
) -> None:
    *command, _ = LONG[name]
    words = (f"is a name of more than {most} bytes; choose another --out",)
    assert_one_sentence(flexlora(*command, place), *words)


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_place(tmp_path / "new" / "deeper")
    asked = []

    def refused(path: Path, mode: int) -> bool:
        asked.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", refused)
    with pytest.raises(RunError, match=r"is not writable; make it so, or choose another --out"):
        require_place(tmp_path / "new" / "deeper")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_what_is_read_may_be_at_home(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "a", pair("x", 3, 4, 1), r=1)
    assert flexlora("inspect", "~/a").code == 0
    assert flexlora("merge", "~/a", "--out", tmp_path / "b").code == 0
    assert (tmp_path / "b" / "adapter_config.json").is_file()
    nobody = "~nobody_is_called_that/a"
    done = flexlora("merge", nobody, "--out", tmp_path / "c")
    assert_one_sentence(done, f"{nobody} does not exist; give a PEFT folder")
    done = flexlora("export", nobody, "--rank", 1, "--out", tmp_path / "c")
    assert_one_sentence(done, f"{nobody} does not exist; give a run directory")


def test_writers_name_the_path_and_the_cure_of_what_stands_in_their_way(tmp_path: Path) -> None:
    """As those of Python meet it, and commands where something came between."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    words = "a file stands where a folder should be; choose another path"
    with (
        pytest.raises(Exception, match=f"cannot write .*file/x: .*; {words}") as caught,
        atomic_file(tmp_path / "file" / "x"),
    ):
        pass
    assert getattr(caught.value, "exit_code", None) == 2
    with (
        pytest.raises(Exception, match=f"cannot write .*file/x: .*; {words}"),
        atomic_folder(tmp_path / "file" / "x"),
    ):
        pass
    with (
        pytest.raises(Exception, match=r"cannot write .*folder: .*a folder stands where a file"),
        atomic_file(tmp_path / "folder") as aside,
    ):
        aside.touch()


def test_a_full_disk_is_the_run_s_failure_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexlora.errors import FlexLoRAError
    from flexlora.runs.logs import Log

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    log = tmp_path / "metrics.jsonl"
    words = f"cannot write {log}: No space left on device; free space there"
    with pytest.raises(FlexLoRAError, match=words) as caught:
        Log(log).append({"round": 1})
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("number", "cure", "code"),
    [
        (errno.EACCES, "see who may use it, or choose another path", 2),
        (errno.EISDIR, "a folder stands where a file should be", 2),
        (errno.ENOSPC, "free space there or choose another folder", 1),
        (errno.EMFILE, "raise the limit of open files", 1),
        (errno.EIO, "see whether the disk is well", 1),
    ],
)
def test_what_the_system_refuses_names_its_path_and_a_cure_of_its_own(
    flexlora: Flexlora, monkeypatch: pytest.MonkeyPatch, number: int, cure: str, code: int
) -> None:
    """Wherever it happens; a write to an open file has no name, and is no surprise all the same."""
    named = ["some/where"]

    def opened(_: object) -> None:
        raise OSError(number, os.strerror(number), *named)

    monkeypatch.setattr("flexlora.federation.starts.kind_of", opened)
    done = flexlora("inspect", "r")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"flexlora: cannot use some/where: {os.strerror(number)}; {cure}")
    assert done.err.count("\n") == 1
    named.clear()
    unnamed = flexlora("inspect", "r")
    disk = number not in (errno.EACCES, errno.EISDIR)
    assert (f"cannot use a file: {os.strerror(number)}; {cure}" in unnamed.err) == disk
    assert ("unexpected" in unnamed.err) == (not disk)
