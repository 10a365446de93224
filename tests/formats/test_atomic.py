"""Nothing half-written is ever seen."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexlora.errors import FlexLoRAError, RunError
from flexlora.formats.atomic import atomic_folder, atomic_write, leftovers


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
    message = "out exists; choose another folder or remove it"
    with pytest.raises(RunError, match=message), atomic_folder(tmp_path / "out"):
        pytest.fail("the body must not run")


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists"), atomic_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert os.listdir(tmp_path) == ["out"]


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
