"""A client's two processes, its trainer and its node, begun together and ended together."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flexlora.errors import ConfigError, FlexLoRAError, shown
from flexlora.flower.local import NAME

# Flower otherwise tells its makers of each start, asks for new versions, and installs packages.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}
_PATIENCE = 10.0  # Seconds in which a process ends by itself.
# A node whose machine or process was killed is not let in again before the server has noticed that
# it was gone, which takes a minute.
_AGAIN = 10.0  # Seconds until a node that has ended is begun again.
_TRIES = 12  # In a row.
_SETTLED = 60.0  # Seconds after which a node is taken to have been let in.
_POLL = 0.2
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl.


@dataclass(frozen=True)
class Uplink:
    """How a node reaches the server. address: host:port; authority: file of the certificate that
    vouches for the server, None for the system's; key: the node's private key, None where the
    server asks for none; port: of the node's own processes on this machine.

    Raises ConfigError for files that cannot be read, and for no TLS (`insecure`) beyond loopback.
    """

    address: str
    authority: Path | None
    key: Path | None
    insecure: bool
    port: int

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise ConfigError(
                f"the server's address is {shown(self.address)}; give host:port, as "
                "silo.example:8000"
            )
        if self.insecure and not _loopback(host.strip("[]")):
            raise ConfigError(
                f"without TLS nothing leaves this machine, and {shown(host)} is another; leave out "
                "--insecure, and give the server a certificate"
            )
        if self.insecure and (self.authority or self.key):
            raise ConfigError("--insecure has no certificate and no key; leave it or these out")
        for what, path in (("certificate", self.authority), ("key", self.key)):
            if path is not None and not os.access(path, os.R_OK):
                raise ConfigError(f"the {what} {path} is missing or cannot be read; check the path")

    def words(self) -> list[str]:
        """For flower-supernode."""
        found = ["--superlink", self.address, "--port", str(self.port)]
        if self.insecure:
            return [*found, "--insecure"]
        if self.authority is not None:
            found += ["--root-certificates", str(self.authority)]
        if self.key is not None:
            found += ["--auth-supernode-private-key", str(self.key)]
        return found


def serve_client(file: Path, folder: Path, uplink: Uplink, say: Callable[[str], None]) -> None:
    """Run the trainer of this client file, and once it listens the node, without end.

    folder: the client's own. Both end with this call, however it ends, and with them all that they
    started. A node that ends is begun again, beside the same trainer. Raises FlexLoRAError, with
    the exit code, where the trainer ends, and where the node ends again and again.
    """
    environment = {**os.environ, **QUIET}
    trainer = [sys.executable, "-m", "flexlora.flower.trainer_process", str(file)]
    node = [_node_command(), *uplink.words(), "--node-config", f'trainer="{folder}"']
    (folder / NAME).unlink(missing_ok=True)
    with _begun(trainer, environment) as first:
        while not (folder / NAME).exists():
            _require_alive(first)
            time.sleep(_POLL)
        say(f"the trainer listens in {folder}; the node goes to {uplink.address}")
        tries = 0
        while True:
            began = time.monotonic()
            with _begun(node, environment) as second:
                while second.poll() is None:
                    _require_alive(first)
                    time.sleep(_POLL)
            tries = 1 if time.monotonic() - began >= _SETTLED else tries + 1
            if tries > _TRIES:
                raise _ended("node", second)
            say(f"the node ended (exit code {second.returncode}); it begins again in {_AGAIN:g} s")
            until = time.monotonic() + _AGAIN
            while time.monotonic() < until:
                _require_alive(first)
                time.sleep(_POLL)


@contextmanager
def _begun(words: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words, env=environment, start_new_session=True, preexec_fn=_end_with_parent
    )
    try:
        yield process
    finally:
        _end(process)


def _end_with_parent() -> None:
    """So that neither is left behind by a command that is killed; where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """First asked, then by force; and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _require_alive(trainer: subprocess.Popen[bytes]) -> None:
    if trainer.poll() is not None:
        raise _ended("trainer", trainer)


def _ended(name: str, process: subprocess.Popen[bytes]) -> FlexLoRAError:
    return FlexLoRAError(
        f"the client's {name} ended (exit code {process.returncode}), and so the client ends; what "
        "it said stands above"
    )


def _node_command() -> str:
    """Of this interpreter's environment, else of the path."""
    beside = Path(sys.executable).parent / "flower-supernode"
    found = str(beside) if beside.is_file() else shutil.which("flower-supernode")
    if found is None:
        raise ConfigError("flower-supernode is not installed; install the extra flexlora[flower]")
    return found


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
