"""Nothing half-written is ever seen."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flexlora.errors import FlexLoRAError, RunError
from flexlora.formats.atomic import atomic_folder, atomic_write, leftovers, remove_leftovers


def test_a_file_is_replaced_and_nothing_is_left_aside(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    atomic_write(target, "früh")
    atomic_write(target, b"late")
    assert target.read_bytes() == b"late"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.txt"
    atomic_write(target, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FlexLoRAError, match="No space left on device; free space there or choose"):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    with atomic_folder(target) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert leftovers(target.parent) == []

    def fail() -> None:
        with atomic_folder(tmp_path / "other") as aside:
            (aside / "a").write_text("1")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == ["deep"]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_an_existing_target_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    message = "out exists; choose another path or remove it"
    with pytest.raises(RunError, match=message), atomic_folder(tmp_path / "out"):
        pytest.fail("the body must not run")


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists"), atomic_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert os.listdir(tmp_path) == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from flexlora.formats.atomic import atomic_file, atomic_folder, scratch_file

kinds = {"file": atomic_file, "folder": atomic_folder, "scratch": scratch_file}
make, target = kinds[sys.argv[1]], Path(sys.argv[2])
with make(target) as aside:
    (aside / "half" if aside.is_dir() else aside).touch()
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("half", flush=True)
    sys.stdin.read()
"""


def write(target: Path, kind: str) -> None:
    if kind != "folder":
        atomic_write(target, "whole")
        return
    with atomic_folder(target) as aside:
        (aside / "whole").touch()


@pytest.mark.parametrize("kind", ["file", "folder", "scratch"])
def test_who_writes_a_target_next_removes_what_a_killed_writer_left(
    tmp_path: Path, kind: str
) -> None:
    for name in ("out", "out[1]", "other"):
        command = [sys.executable, "-c", KILLED, kind, str(tmp_path / name), "killed"]
        assert subprocess.run(command).returncode == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 3
    elsewhere = tmp_path / ".out.000000-1.0123abcd.tmp"
    elsewhere.touch()  # Of a process of another machine, which may live.
    for name in ("out", "out[1]"):
        write(tmp_path / name, kind)
    (other,) = [path for path in leftovers(tmp_path) if path != elsewhere]
    assert other.name.startswith(".other.")
    assert elsewhere.exists()
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["out", "out[1]"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_writer_has_aside_stays(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", KILLED, kind, str(tmp_path / "out"), "lives"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        write(tmp_path / "out", kind)
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(".out.*.tmp"))) == 1
        writer.communicate()
    assert (writer.returncode == 0) == (kind == "file")  # A folder that is there is not replaced.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FlexLoRAError, match="cannot write"):
        atomic_write(tmp_path / "file" / "a", "x")
    with pytest.raises(FlexLoRAError, match="cannot write"), atomic_folder(tmp_path / "file" / "a"):
        pytest.fail("the body must not run")


def test_a_disk_that_is_full_amid_a_folder_is_said(tmp_path: Path) -> None:
    def full(aside: Path) -> None:
        (aside / "a").write_text("1")
        raise OSError(28, "No space left on device")

    words = "cannot write .*out: No space left on device; free space there or choose another"
    with pytest.raises(FlexLoRAError, match=words), atomic_folder(tmp_path / "out") as aside:
        full(aside)
    assert os.listdir(tmp_path) == []
