"""A disk that is full, read-only or gone: from some moment on, every command's every kind of write.

The n-th time that a command opens a file to write, makes, renames or truncates one, the system
refuses, and from then on always; a network drive that is gone refuses reads, too.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from commands import Done, Flexlora
from flexlora.federation import resume
from flexlora.federation import run as play
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small, write

CONFIG = small(evaluation={"on_clients": "off"})
FULL, READ_ONLY, GONE, BROKEN = errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO
CURES = {
    FULL: "free space there",
    READ_ONLY: "can be written",
    GONE: "the network drive is there",
    BROKEN: "the disk is well",
    errno.EFBIG: "a disk that holds such files",
}
MAKING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Disk:
    """Below `folder`, the system refuses with this error from the at-th operation on."""

    def __init__(self) -> None:
        self.folder = ""
        self.error = self.at = self.seen = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.rename", "os.mkdir", "os.truncate"):
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if not path.startswith(self.folder) or path.endswith(".lock"):
            return
        reads = event == "open" and not self._writes(args[1], args[2])
        if reads and self.error not in (GONE, BROKEN):
            return
        self.seen += 1
        if self.at and self.seen >= self.at:
            raise OSError(self.error, os.strerror(self.error), path)

    @staticmethod
    def _writes(mode: str | None, flags: int) -> bool:
        return any(x in mode for x in "wax+") if mode else bool(flags & MAKING)

    @contextmanager
    def refuses(self, folder: Path, error: int, at: int) -> Iterator[None]:
        self.folder, self.error, self.at, self.seen = str(folder), error, at, 0
        try:
            yield
        finally:
            self.folder = ""


@pytest.fixture(scope="module")
def disk() -> Disk:
    made = Disk()
    sys.addaudithook(made)  # It stays for good, and does nothing where nobody asks it to.
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(CONFIG, tmp_path_factory.mktemp("whole") / "run").folder


def assert_said(done: Done, error: int) -> None:
    """One sentence of ours, with the system's reason and a cure; and perhaps how to go on."""
    assert done.code in (1, 2), done
    assert "Traceback" not in done.err + done.out
    assert "unexpected" not in done.err
    said = [line for line in done.err.splitlines() if line.startswith("flexlora: ")]
    assert len(said) == 1, done.err
    assert os.strerror(error) in said[0], done.err
    assert CURES[error] in said[0], done.err


@pytest.mark.parametrize("error", [FULL, READ_ONLY, GONE, BROKEN])
@pytest.mark.parametrize("seed", range(2))
def test_a_run_ends_in_a_sentence_and_goes_on_to_the_same_bits(
    disk: Disk, whole: Path, tmp_path: Path, flexlora: Flexlora, error: int, seed: int
) -> None:
    config, folder = write(CONFIG, tmp_path / "c.toml"), tmp_path / "out"
    at = random.Random(10 * seed + error).randint(1, 110)
    with disk.refuses(folder, error, at):
        done = flexlora("run", config, "--out", folder / "r")
    assert_said(done, error)
    if (folder / "r").exists():
        overview(folder / "r")
        resume(folder / "r")
    else:
        play(CONFIG, folder / "r")
    assert_same_run(folder / "r", whole)
    if error not in (GONE, BROKEN):  # Else what it could not remove waits for its next writer.
        assert list(folder.rglob("*.tmp")) == []


WRITERS = {
    "export": (["--rank", "2"], "adapter"),
    "report": ([], "page.html"),
    "continue": (["--set", "federation.rounds=4"], "went_on"),
}


@pytest.mark.parametrize("error", [FULL, GONE])
@pytest.mark.parametrize("name", [*WRITERS, "merge"])
def test_what_writes_leaves_no_half_and_does_it_when_the_disk_is_well(
    disk: Disk, whole: Path, tmp_path: Path, flexlora: Flexlora, error: int, name: str
) -> None:
    (folder := tmp_path / "out").mkdir()
    if name == "merge":
        target, given = "merged", tmp_path / "given"
        assert flexlora("export", whole, "--rank", "2", "--out", given).code == 0
        command = ["merge", given, given, "--out", folder / target]
    else:
        more, target = WRITERS[name]
        command = [name, whole, *more, "--out", folder / target]
    with disk.refuses(folder, error, 0):
        assert flexlora(*command).code == 0
    touches = disk.seen
    left, wanted = folder / target, tmp_path / "wanted"
    left.rename(wanted)
    for at in (1, touches // 2, touches):
        with disk.refuses(folder, error, at):
            assert_said(flexlora(*command), error)
        if left.exists():  # Only its name was not certain to be on the disk.
            assert_whole(left, wanted)
            shutil.move(left, tmp_path / f"refused-{at}")
    assert flexlora(*command).code == 0
    assert_whole(left, wanted)


def assert_whole(made: Path, wanted: Path) -> None:
    """A report says when it was made; of a run, that it is whole where it has begun."""
    if made.suffix == ".html":
        assert made.read_text().rstrip().endswith("</html>")
    elif (made / "config.toml").exists():
        overview(made)
        resume(made)
        assert_same_run(made, wanted)
    else:
        files = {x.name: x.read_bytes() for x in wanted.iterdir()}
        assert {x.name: x.read_bytes() for x in made.iterdir()} == files


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_file_that_may_not_grow_on(whole: Path, tmp_path: Path, flexlora: Flexlora) -> None:
    """A real refusal, also of what libraries write: no file may have more bytes than this."""
    import resource

    config, folder = write(CONFIG, tmp_path / "c.toml"), tmp_path / "r"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        done = flexlora("run", config, "--out", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_said(done, errno.EFBIG)
    resume(folder)
    assert_same_run(folder, whole)


def test_no_bit_depends_on_a_clock_that_jumps(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flexlora: Flexlora
) -> None:
    """By years, forwards and backwards, at every look at it; played, stopped and resumed."""
    draw, real = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + draw.choice((-1, 1)) * draw.random() * 1e9)
    config = write(CONFIG, tmp_path / "c.toml")
    assert flexlora("run", config, "--out", tmp_path / "r", "--set", "run.name=x").code == 0
    assert all(record.total_seconds >= 0 for record in Run.open(tmp_path / "r").records())
    assert flexlora("inspect", tmp_path / "r").code == 0
    assert flexlora("report", tmp_path / "r", "--out", tmp_path / "x.html").code == 0
    (tmp_path / "r" / "results.json").unlink()
    assert flexlora("resume", tmp_path / "r").code == 0
    assert_same_run(tmp_path / "r", whole)
