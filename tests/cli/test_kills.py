"""kill -9 at moments that nobody chose: what was killed is gone on with, and ends at the same bits.

A moment is the n-th time that a command touches a file, and up to 40 ms after it: so it lies in
what reads, trains, combines, writes or scores. The soak test has 104 of them.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexlora.formats.checked import file_digest
from flexlora.runs.overview import overview
from flexlora.runs.run_directory import Run
from same_run import assert_same_run
from small import small, write
from warm import Warm

pytestmark = pytest.mark.whole

# Counts what touches files; at the count that is asked for, and a while later, it kills itself.
SCRIPT = """
import os, signal, sys, threading

at, wait, told, *arguments = sys.argv[1:] if __name__ == "__main__" else "00."
moves = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
# Its own folder, and that of this script, with the run that is exported, reported and continued.
places = (os.path.dirname(os.path.abspath(told)), os.path.dirname(os.path.abspath(__file__)))
seen = 0
ended = threading.Lock()  # Held by who comes first: the kill, or the end of the command.

def die():
    if ended.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, args):
    global seen
    if event in moves or (event == "open" and str(args[0]).startswith(places)):
        seen += 1
        if seen == int(at):
            threading.Timer(float(wait), die).start() if float(wait) else die()

if __name__ == "__main__":  # Not in the workers, which begin as copies of this.
    sys.addaudithook(hook)
    from flexlora.cli.main import main
    sys.argv = ["flexlora", *arguments]
    try:
        main()
    finally:
        total = seen
        ended.acquire()
        with open(told, "w") as file:
            file.write(str(total))
"""
ROUNDS = 3
LONGEST_S = 120


@dataclass(frozen=True)
class Played:
    """Unbroken: folder has run/, went_on/, adapter/, merged/ and page.html; counts: of each
    command, how often it touches a file."""

    folder: Path
    counts: dict[str, int]


class Commands:
    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder = folder
        self.warm = warm
        (folder / "killed.py").write_text(SCRIPT)
        for workers in (1, 2):
            config = small(
                federation={"rounds": ROUNDS},
                evaluation={"on_clients": "off"},
                run={"workers": workers},
            )
            write(config, folder / f"{workers}.toml")

    def arguments(self, name: str, folder: Path, run: Path, workers: int = 1) -> list[str]:
        """run: what is exported, reported and continued."""
        return {
            "run": ["run", str(self.folder / f"{workers}.toml"), "--out", str(folder / "run")],
            "resume": ["resume", str(folder / "run")],
            "continue": [
                *("continue", str(run), "--out", str(folder / "went_on")),
                *("--set", f"federation.rounds={ROUNDS + 1}"),
            ],
            "export": ["export", str(run), "--rank", "2", "--out", str(folder / "adapter")],
            "merge": [
                *("merge", str(self.folder / "whole" / "adapter")),
                *(str(self.folder / "whole" / "adapter"), "--out", str(folder / "merged")),
            ],
            "report": ["report", str(run), "--out", str(folder / "page.html")],
        }[name]

    def do(self, folder: Path, arguments: list[str], at: int = 0, wait: float = 0.0) -> int | None:
        """How often it touched a file; None for a command that was killed."""
        told = folder / "told"
        told.unlink(missing_ok=True)
        command = ["python", str(self.folder / "killed.py"), str(at), str(wait), str(told)]
        path = {**self.warm.environment, "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, *arguments],
            env=path,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            cwd=folder,
        )
        if not told.exists():
            assert at, done.stderr
            return None
        assert done.returncode == 0, done.stderr
        return int(told.read_text())


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Commands:
    return Commands(tmp_path_factory.mktemp("kills"), warm)


@pytest.fixture(scope="module")
def whole(commands: Commands) -> Played:
    folder, counts = commands.folder / "whole", {}
    folder.mkdir()
    for name in ("run", "continue", "export", "merge", "report"):
        asked = commands.arguments(name, folder, folder / "run")
        counts[name] = commands.do(folder, asked) or 0
        assert counts[name] > 1
    return Played(folder, {**counts, "resume": counts["run"] * 2 // 3})


def readable(run: Path) -> bool:
    """Whether there is a run; then everybody can read it, whatever was killed."""
    if not run.exists():
        return False
    overview(run)
    Run.open(run).load_checkpoint()
    return True


def bits(path: Path) -> dict[str, str]:
    """File → digest; of a report, whose time of making differs, that it is whole."""
    if path.suffix == ".html":
        return {"page": str(path.read_text().rstrip().endswith("</html>"))}
    return {str(x.relative_to(path)): file_digest(x) for x in path.rglob("*") if x.is_file()}


def kill_a_run(commands: Commands, whole: Played, folder: Path, seed: int, workers: int) -> None:
    """A run, then its resume, each killed; the next resume ends as the unbroken run did."""
    draw = random.Random(seed)
    for name in ("run", "resume"):
        at, wait = draw.randint(1, whole.counts[name]), draw.choice((0.0, draw.random() / 25))
        asked = commands.arguments(name, folder, folder, workers)
        if name == "resume" and not (folder / "run").exists():
            asked = commands.arguments("run", folder, folder, workers)
        killed = commands.do(folder, asked, at, wait) is None
        # A moment that is no later than a file is touched comes for certain, of what was counted.
        assert killed or wait or workers > 1 or name == "resume"
        readable(folder / "run")
    again = "resume" if (folder / "run").exists() else "run"
    unused(folder / "run")
    commands.do(folder, commands.arguments(again, folder, folder, workers))
    assert_same_run(folder / "run", whole.folder / "run")


def kill_what_writes(commands: Commands, whole: Played, folder: Path, seed: int, name: str) -> None:
    """Its target is there whole, or not at all; done again, it is what it should be."""
    draw = random.Random(seed)
    target = {
        "continue": "went_on",
        "export": "adapter",
        "merge": "merged",
        "report": "page.html",
    }[name]
    at, wait = draw.randint(1, whole.counts[name]), draw.choice((0.0, draw.random() / 25))
    asked = commands.arguments(name, folder, whole.folder / "run")
    assert commands.do(folder, asked, at, wait) is None or wait
    path, wanted = folder / target, whole.folder / target
    if name == "continue":
        if readable(path):
            asked = ["resume", str(path)]
            unused(path)
        commands.do(folder, asked)
        assert_same_run(path, wanted)
    else:
        if path.exists():
            assert bits(path) == bits(wanted), "half of it was left"
        if name == "report" or not path.exists():
            commands.do(folder, asked)
        assert bits(path) == bits(wanted)
    assert [x.name for x in folder.rglob("*.tmp")] == []


def unused(run: Path) -> None:
    """Workers of a killed run end by themselves; until then its lock is nobody's."""
    end = time.monotonic() + LONGEST_S
    while run.exists() and Run.open(run).in_use():
        assert time.monotonic() < end
        time.sleep(0.05)


def moment(commands: Commands, whole: Played, folder: Path, seed: int, what: str) -> None:
    folder.mkdir()
    if what in ("one worker", "two workers"):
        kill_a_run(commands, whole, folder, seed, 1 if what == "one worker" else 2)
    else:
        kill_what_writes(commands, whole, folder, seed, what)
    shutil.rmtree(folder)


SHORT = ("one worker", "one worker", "export", "merge", "report", "continue", "two workers")
LONG = (*["one worker"] * 26, *["two workers"] * 10, *["continue", "export", "merge", "report"] * 8)


@pytest.mark.parametrize(("seed", "what"), list(enumerate(SHORT)))
def test_a_kill_at_any_moment_loses_nothing(
    commands: Commands, whole: Played, tmp_path: Path, seed: int, what: str
) -> None:
    moment(commands, whole, tmp_path / "r", seed, what)


@pytest.mark.soak
@pytest.mark.parametrize(("seed", "what"), list(enumerate(LONG, 100)))
def test_a_kill_at_a_hundred_moments_loses_nothing(
    commands: Commands, whole: Played, tmp_path: Path, seed: int, what: str
) -> None:
    """A run is killed twice, its resume too: 36 runs have 72 moments, what writes has 32."""
    moment(commands, whole, tmp_path / "r", seed, what)
