"""What a command begins ends with it, also what begins others in groups of their own."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from flexlora.errors import ConfigError
from flexlora.flower.begun import (
    Begun,
    begun,
    end,
    flower_command,
    free_port,
    new_mark,
    require_port,
    surroundings,
)

# A process that ignores SIGTERM and starts one in a session of its own; it leaves that behind, or
# stays.
LEAVES = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
)
STUBBORN = f"{LEAVES}time.sleep(600)\n"


def noted(log: Path) -> int:
    until = time.monotonic() + 20
    while not log.read_text().endswith("\n"):
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    return int(log.read_text())


@pytest.mark.parametrize("script", [STUBBORN, LEAVES], ids=["stubborn", "leaves"])
def test_all_of_it_ends(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexlora.flower.begun._PATIENCE", 0.2)
    log = tmp_path / "log"
    log.touch()
    process = Begun([sys.executable, "-c", script], surroundings(), log)
    child = noted(log)
    other = Begun([sys.executable, "-c", "import time; time.sleep(600)"], surroundings())
    try:
        end(process)
        assert process.poll() is not None
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"
        assert other.poll() is None  # It is no part of what was ended.
    finally:
        end(other)


def test_who_was_begun_as_a_stop_came_ends_though_nobody_holds_it(tmp_path: Path) -> None:
    """A signal in the midst of beginning a process leaves nothing that knows its number."""
    mark, log = new_mark(), tmp_path / "log"
    log.touch()
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    process = Begun([sys.executable, "-c", script], surroundings(), log, mark)
    try:
        noted(log)
        end(mark=new_mark())
        assert process.poll() is None
        end(mark=mark)
        assert process.poll() is not None
    finally:
        end(process)


def test_it_ends_with_its_context() -> None:
    with begun([sys.executable, "-c", "import time; time.sleep(600)"], surroundings()) as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_flower_is_told_to_be_quiet_and_finds_its_programs() -> None:
    found = surroundings(FLWR_HOME="/there")
    assert found["FLWR_HOME"] == "/there"
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_program_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"flower-gossip is not installed; .*flexlora\[flower\]"):
        flower_command("flower-gossip")


def test_a_port_in_use_is_told() -> None:
    require_port(free_port())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of this machine cannot be had"):
            require_port(port)
