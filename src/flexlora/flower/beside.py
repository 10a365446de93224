"""A client's two processes, its trainer and its node, begun together and ended together."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flexlora.errors import ConfigError, FlexLoRAError, shown
from flexlora.flower.begun import begun, node_command, surroundings
from flexlora.flower.local import NAME

# A node whose machine or process was killed is not let in again before the server has noticed that
# it was gone, which takes a minute.
_AGAIN = 10.0  # Seconds until a node that has ended is begun again.
_TRIES = 12  # In a row.
_SETTLED = 60.0  # Seconds after which a node is taken to have been let in.
_POLL = 0.2


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
    environment = surroundings()
    trainer = [sys.executable, "-m", "flexlora.flower.trainer_process", str(file)]
    node = [*node_command(), *uplink.words(), "--node-config", f'trainer="{folder}"']
    (folder / NAME).unlink(missing_ok=True)
    with begun(trainer, environment) as first:
        while not (folder / NAME).exists():
            _require_alive(first)
            time.sleep(_POLL)
        say(f"the trainer listens in {folder}; the node goes to {uplink.address}")
        tries = 0
        while True:
            began = time.monotonic()
            with begun(node, environment) as second:
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


def _require_alive(trainer: subprocess.Popen[bytes]) -> None:
    if trainer.poll() is not None:
        raise _ended("trainer", trainer)


def _ended(name: str, process: subprocess.Popen[bytes]) -> FlexLoRAError:
    return FlexLoRAError(
        f"the client's {name} ended (exit code {process.returncode}), and so the client ends; what "
        "it said stands above"
    )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
