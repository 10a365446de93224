"""`flexlora flower up`: a federation on this machine, of which nothing is left, however it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import PROCESS, Flexlora, assert_one_sentence
from flexlora.config.config import Config
from flexlora.federation.ground import Ground
from flexlora.federation.session import Session
from flexlora.runs.run_directory import Run
from flower.states import assert_same_state
from flower.trainers import networked
from small import write

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

NONE = {"on_clients": "off", "every": 0, "decide_by": "server", "unseen": False}
TABLES: dict[str, dict[str, Any]] = {
    "data": {"train_tasks": 4},
    "federation": {"rounds": 3, "clients_per_round": 4},
    "evaluation": NONE,
}
CONFIG = networked(**TABLES)


class Up:
    """The command as a process, whose temporary files, and those of all it starts, lie here."""

    def __init__(self, folder: Path, *words: str, made: Path | None = None) -> None:
        self.folder = folder
        # Not in a test's folder: the path of a socket has about a hundred characters at most.
        self.made = Path(tempfile.mkdtemp(prefix="up")) if made is None else made
        config = write(CONFIG, folder / "c.toml")
        self.process = subprocess.Popen(
            [*PROCESS, "flower", "up", str(config), "--out", str(folder / "run"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(self.made), "OMP_NUM_THREADS": "1"},
            # Whoever runs the tests in the background of a script has it ignored, too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def parts(self) -> list[psutil.Process]:
        """All processes of the federation, wherever they hang."""
        return [one for one in psutil.process_iter() if self._is_part(one)]

    def _is_part(self, one: psutil.Process) -> bool:
        try:
            found = one.environ()
            return "FLWR_HOME" in found and found.get("TMPDIR") == str(self.made)
        except (psutil.Error, OSError):
            return False

    def until(self, come: Callable[[], bool]) -> None:
        limit = time.monotonic() + 150
        while not come():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < limit, [one.cmdline() for one in self.parts()]
            time.sleep(0.1)

    def require_ended(self, name: str) -> None:
        """Soon: nobody waits for it here."""
        limit = time.monotonic() + 30
        while any(name in " ".join(one.cmdline()) for one in self.parts()):
            assert time.monotonic() < limit, name
            time.sleep(0.1)

    def left(self) -> list[Path]:
        """Of its own files; torch leaves an empty folder, too."""
        return list(self.made.glob("flexlora-*"))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    begun: list[Up] = []

    def one(*words: str, made: Path | None = None) -> Up:
        begun.append(Up(tmp_path, *words, made=made))
        return begun[-1]

    yield one
    for up in begun:
        up.process.kill()
        for left in up.parts():
            left.kill()
        shutil.rmtree(up.made, ignore_errors=True)


def test_ctrl_c_takes_down_what_has_come_up(begin: Callable[..., Up], tmp_path: Path) -> None:
    up = begin("--clients", "2", "--set", "federation.clients_per_round=2")
    up.until(lambda: len(up.parts()) >= 3)  # The SuperLink and the trainers.
    up.process.send_signal(signal.SIGINT)
    out, err = up.process.communicate(timeout=60)
    assert (up.process.returncode, err) == (130, "flexlora: stopped\n"), out
    assert up.parts() == []
    assert up.left() == []
    assert not (tmp_path / "run").exists()


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stop_in_the_midst_of_a_run_takes_all_of_it_down(
    number: signal.Signals, begin: Callable[..., Up], tmp_path: Path
) -> None:
    """What is killed cannot do it itself: then the system ends its SuperLink, nodes and trainers,
    and Flower the rest, once it has noticed."""
    up = begin("--clients", "2", "--set", "federation.clients_per_round=2")
    up.until(lambda: (tmp_path / "run").is_dir())
    assert len(up.parts()) >= 6
    up.process.send_signal(number)
    up.process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert up.process.returncode == 143
        assert up.parts() == []
        assert up.left() == []
    else:
        for name in ("flower-superlink", "flexlora.flower.node", "trainer_process"):
            up.require_ended(name)


@pytest.mark.soak
def test_a_part_that_is_lost_ends_it_with_what_it_said(begin: Callable[..., Up]) -> None:
    up = begin("--clients", "2", "--set", "federation.clients_per_round=2")
    up.until(lambda: len(up.parts()) >= 3)
    next(one for one in up.parts() if "trainer_process" in " ".join(one.cmdline())).kill()
    _, err = up.process.communicate(timeout=60)
    assert up.process.returncode == 1
    assert err.startswith("flexlora: trainer of silo")
    assert "ended (exit code -9)" in err
    assert up.parts() == []


@pytest.mark.soak
def test_clients_that_cannot_take_part_end_it_with_why(begin: Callable[..., Up]) -> None:
    up = begin("--clients", "4", "--set", "data.max_tokens=3")
    _, err = up.process.communicate(timeout=200)
    assert up.process.returncode == 1
    assert "the run did not end: 0 of 4 clients came; refused: " in err
    assert "max_tokens is 3" in err
    assert up.parts() == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("rule", "ranks"),
    [
        ({}, (1, 4, 16, 64)),
        ({"name": "flora"}, (16, 24, 40, 64)),  # So high that Δ goes whole each round.
        ({"name": "hetlora", "gamma": 0.5, "regulariser": 10.0}, (1, 4, 16, 64)),
    ],
    ids=["the default", "flora", "hetlora"],
)
def test_four_silos_of_four_ranks_end_at_the_bits_of_one_process(
    rule: dict[str, Any], ranks: tuple[int, ...], begin: Callable[..., Up], tmp_path: Path
) -> None:
    assert Config().rule.name == "flexlora"
    asked = [f"--set=rule.{key}={value}" for key, value in rule.items()]
    up = begin("--clients", "4", "--ranks", ",".join(map(str, ranks)), "--json", *asked)
    out, err = up.process.communicate(timeout=290)
    assert up.process.returncode == 0, err
    assert up.parts() == []
    assert up.left() == []
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert (events[0], events[-1]) == ("started", "result")
    assert events.count("round") == 3
    there = Run.open(tmp_path / "run")
    assert there.resolved["clients"] == {f"rank {r}": 1 for r in ranks}
    names = sorted(Ground.of(CONFIG).examples.train)
    told = {"ranks": dict(zip(names, ranks, strict=True))}
    here = networked(**TABLES, clients=told, **({"rule": rule} if rule else {}))
    Session.of(here).play(tmp_path / "here")
    assert_same_state(there.folder, tmp_path / "here")
    sent = [record.bytes_up for record in there.records()]
    assert (sent[0] > sent[1] > sent[2]) == (rule.get("name") == "hetlora")  # It prunes.


@pytest.mark.soak
def test_where_the_temporary_folder_has_a_long_path_it_takes_another_and_leaves_nothing(
    begin: Callable[..., Up], tmp_path: Path
) -> None:
    """A socket's path has about a hundred characters at most."""
    long = tmp_path / ("long-" * 30)
    long.mkdir()
    up = begin(
        *("--clients", "2", "--set=federation.clients_per_round=2", "--set=federation.rounds=1"),
        made=long,
    )
    up.until(lambda: len(up.parts()) >= 3)
    home = Path(up.parts()[0].environ()["FLWR_HOME"])
    assert home.is_dir()
    assert not home.is_relative_to(long)
    _, err = up.process.communicate(timeout=200)
    assert up.process.returncode == 0, err
    assert Run.open(tmp_path / "run").ended() is not None
    assert up.parts() == []
    assert up.left() == []
    assert not home.parent.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--clients", "9"), "--clients is 9, but the data comes to 4 clients"),
        (("--clients", "4", "--ranks", "1,2"), "--ranks has 2 and --clients is 4"),
        (("--clients", "4", "--ranks", "1,0,2,3"), "give whole numbers of 1 or more"),
        (("--clients", "2"), "clients_per_round is 4 but there are 2 clients"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_begins(
    words: tuple[str, ...], told: str, flexlora: Flexlora, tmp_path: Path
) -> None:
    config = write(CONFIG, tmp_path / "c.toml")
    done = flexlora("flower", "up", config, "--out", tmp_path / "run", *words)
    assert_one_sentence(done, told)
    assert not (tmp_path / "run").exists()
