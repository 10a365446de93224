"""Processes that a command begins, each with all that it starts itself, and that end with it."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

import psutil

from flexlora.errors import ConfigError
from flexlora.extras import require_extras

# Flower otherwise tells its makers of each start, asks for new versions, and installs packages.
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}
_TRIES = 3  # One more than it takes: what is about to be ended may just start another.
_MARK = "FLEXLORA_BEGUN"  # In the environment of a process, and of all that it starts in turn.
_PATIENCE = 10.0  # Seconds in which a process ends by itself.
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl.


@final
class Begun(subprocess.Popen[bytes]):
    """A process in a group of its own. What it starts is known by its mark: Flower starts some in
    groups of their own, whose parents may be gone before them.

    log: what it says goes there, behind what is there (default: where this process says its own);
    mark: one that several share, which are ended together (default: one of its own).
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None = None,
        mark: str = "",
    ) -> None:
        self.mark = mark or new_mark()
        with open(os.devnull if log is None else log, "ab") as to:
            said = None if log is None else to
            super().__init__(
                words,
                env={**environment, _MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )


@contextmanager
def begun(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[Begun]:
    """A process that ends with this context."""
    process = Begun(words, environment)
    try:
        yield process
    finally:
        end(process)


def new_mark() -> str:
    return secrets.token_hex(16)


def end(*processes: Begun, mark: str = "") -> None:
    """First all are asked, then those that stay are ended by force; and whatever they started.

    mark: of processes that end with them though nobody holds them, since a stop came while they
    were being begun.
    """
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    marks = {process.mark for process in processes} | {mark} - {""}
    for _ in range(_TRIES):
        left = [process for process in psutil.process_iter() if _marked(process, marks)]
        for one in left:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, timeout=_PATIENCE)


def _marked(process: psutil.Process, marks: set[str]) -> bool:
    try:
        return process.environ().get(_MARK) in marks
    except (psutil.Error, OSError):  # It is somebody else's, or has gone.
        return False


def surroundings(**own: str) -> dict[str, str]:
    """Of processes that run Flower: quiet, and finding the programs of this interpreter, as Flower
    does its own. own: what is set besides."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **_QUIET, "PATH": programs, **own}


def flower_command(name: str) -> str:
    """Of this interpreter's environment, else of the path. Raises ConfigError where it is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is not installed; install the extra flexlora[flower]")
    return found


def node_command() -> list[str]:
    """Of a node, as its first words. Raises ConfigError where there is no Flower."""
    require_extras([("a node is begun", "flower")])
    return [sys.executable, "-m", "flexlora.flower.node"]


def free_port() -> int:
    """One that nobody on this machine listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def require_port(port: int) -> None:
    """Raise ConfigError for one that somebody on this machine listens on."""
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of this machine cannot be had ({error.strerror}); give the node "
                "another one with --port"
            ) from error


def end_with_parent() -> None:
    """So that this process does not outlive one that is killed; where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
