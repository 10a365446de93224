"""A node looks soon again where something is about to come, and seldom where nothing is."""

from __future__ import annotations

import ast
import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flexlora.flower.begun import surroundings
from flexlora.flower.sooner import BACKOFF, LEAST, SHARE, Waits, pull_sooner

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)


class Clock:
    """It goes on by what is slept."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_it_sleeps_a_tenth_of_its_waiting_and_in_the_end_as_long_as_flower_does() -> None:
    clock = Clock()
    waits = Waits(lambda: None, lambda: clock.now, clock.sleep)
    while clock.now < 160.0:
        began = clock.now
        waits.sleep(3)
        assert clock.slept[-1] == min(3, max(LEAST, SHARE * (began - 100.0)))
    assert clock.slept[0] == LEAST
    assert clock.slept[-1] == 3
    assert len(clock.slept) < 60  # Flower alone would look 20 times.
    waits.sleep(0.5)  # A message came, and its answer is waited for.
    waits.sleep(3)
    assert clock.slept[-2:] == [LEAST, LEAST]


def test_it_asks_first_whether_there_is_anything_to_wait_for() -> None:
    def alive() -> None:
        raise KeyboardInterrupt

    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        Waits(alive, lambda: clock.now, clock.sleep).sleep(3)
    assert clock.slept == []


def test_flowers_node_sleeps_by_what_is_replaced_and_uses_nothing_else_of_it() -> None:
    from flwr.supernode import start_client_internal as loop

    tree = ast.parse(Path(loop.__file__).read_text(encoding="utf-8"))
    used = [x.attr for x in ast.walk(tree) if isinstance(x, ast.Attribute) and _named(x, "time")]
    assert used == ["sleep"] * 3


def _named(found: ast.Attribute, name: str) -> bool:
    return isinstance(found.value, ast.Name) and found.value.id == name


def test_parts_that_are_not_there_yet_are_asked_for_soon_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the node, by a message's process, and at the server."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
    from flwr.superlink.grid import http_grid
    from flwr.supernode import start_client_internal
    from flwr.supernode.runtime import run_clientapp

    name = "pull_and_inflate_object_from_tree"
    monkeypatch.setattr(run_clientapp, name, vars(run_clientapp)[name])
    pull_sooner(run_clientapp)
    assert vars(run_clientapp)[name].keywords == {"initial_backoff": BACKOFF}
    for module in (start_client_internal, http_grid):
        monkeypatch.setattr(module, "pull_objects", vars(module)["pull_objects"])
        pull_sooner(module)
        asked: list[float] = []

        def pull(_: str, asked: list[float] = asked) -> bytes:
            asked.append(time.monotonic())
            if len(asked) == 1:
                raise ObjectUnavailableError("one")
            return b"there"

        assert vars(module)["pull_objects"](["one"], pull) == {"one": b"there"}
        assert vars(module)["pull_objects"].keywords == {"initial_backoff": BACKOFF}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of such an end")
def test_what_forks_the_processes_of_messages_has_one_thread_and_ends_with_its_node() -> None:
    """Loaded with all that they need, and also where the node is killed."""
    script = (
        "import os, subprocess, sys, time\n"
        "words = ['-m', 'flexlora.flower.messages', sys.argv[1], str(os.getpid())]\n"
        "print(subprocess.Popen([sys.executable, *words]).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = "{}:{}".format(*listening.getsockname())
        node = subprocess.Popen(
            [sys.executable, "-c", script, address], stdout=subprocess.PIPE, env=surroundings()
        )
        try:
            assert node.stdout is not None
            messages = psutil.Process(int(node.stdout.readline()))
            listening.settimeout(120)
            with listening.accept()[0]:  # It asks, so it has loaded everything.
                assert messages.num_threads() == 1
                node.kill()
                psutil.wait_procs([messages], timeout=30)
                assert not messages.is_running()
        finally:
            node.kill()
            node.communicate()
