"""A disk that is full, read-only or gone: from some moment on, every command's every kind of write.

The n-th time that a command opens a file to write, makes, renames or truncates one, the system
refuses, and from then on always; a network drive that is gone refuses reads, too.
"""

from __future__ import annotations

import errno
import random
import shutil
import sys
import time
from pathlib import Path

import pytest

from commands import Flexlora
from flexlora.federation import resume
from flexlora.federation import run as play
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from lost_disk import BROKEN, FULL, GONE, READ_ONLY, Disk, assert_said
from same_run import assert_same_run
from small import small, write

pytestmark = pytest.mark.whole

CONFIG = small(evaluation={"on_clients": "off"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return play(CONFIG, tmp_path_factory.mktemp("whole") / "run").folder


@pytest.mark.parametrize("error", [FULL, READ_ONLY, GONE, BROKEN])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
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


CASES = [(name, error) for name in (*WRITERS, "merge") for error in (FULL, GONE)]
OFTEN = {("export", FULL), ("report", GONE), ("continue", FULL), ("merge", GONE)}


@pytest.mark.parametrize(
    ("name", "error"),
    [pytest.param(*x, marks=() if x in OFTEN else pytest.mark.soak) for x in CASES],
)
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
