"""A federation of real processes on this machine's loopback, all of which end with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from flexlora.config.config import Config
from flexlora.flower.app_folder import write_app
from flexlora.flower.begun import free_port, node_command, surroundings
from flexlora.flower.keys import Certificates, certificates, node_key
from flexlora.flower.server_settings import ServerSettings
from flexlora.flower.trainer_process import READY

SOURCE = Path(__file__).parents[2] / "src"
NODE = node_command()[-1]
_PATIENCE = 60.0  # Seconds for a process to come up.


def command(name: str) -> str:
    """Of this interpreter's environment."""
    return str(Path(sys.executable).parent / name)


@dataclass
class Processes:
    """Processes that were started, each with those that it starts in a group of its own."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        mine = {"PYTHONPATH": path, "FLWR_HOME": str(self.folder / "home")}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=surroundings(**mine, OMP_NUM_THREADS="1"),
                start_new_session=True,
            )
        return self.running[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name: str, words: str) -> None:
        until = time.monotonic() + _PATIENCE
        while words not in self.log(name):
            over = self.running[name].poll() is not None or time.monotonic() > until
            assert not over, f"{name} did not come up:\n{self.log(name)}"
            time.sleep(0.05)

    def end(self, *names: str) -> None:
        """These processes and all that they started, by force: nothing of them is needed.

        What `flexlora flower client` begins is in groups of its own, and ends as that asks it to.
        """
        begun: list[psutil.Process] = []
        for name in names:
            if name.startswith("client-"):
                with suppress(psutil.NoSuchProcess):
                    begun += psutil.Process(self.running[name].pid).children(recursive=True)
                self.running[name].terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.running[name].wait(timeout=30)
        for left in begun:  # None, unless that failed.
            with suppress(psutil.NoSuchProcess):
                left.kill()
        ended = [self.running.pop(name) for name in names]
        for process in ended:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in ended:
            process.wait()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir()
    made = Processes(folder)
    try:
        yield made
    finally:
        made.end(*made.running)


@dataclass
class Loopback:
    """A SuperLink and what joins it, with TLS and a key for each node, on ports that were free."""

    made: Processes
    port: int
    certificates: Certificates
    tables: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @staticmethod
    def begin(made: Processes) -> Loopback:
        port, files = free_port(), certificates(made.folder)
        connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(files.authority)}
        text = tomli_w.dumps({"superlink": {"default": "here", "here": connection}})
        (made.folder / "home" / "config.toml").write_text(text)
        found = Loopback(made, port, files)
        found.superlink("superlink")
        return found

    def superlink(self, name: str) -> None:
        """On the database that is there; everything that it runs is in its group."""
        self.made.start(
            name,
            command("flower-superlink"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--database", str(self.made.folder / "state.db")),
            "--disable-runtime-dependency-installation",
            "--enable-supernode-auth",
            *self.certificates.flags(),
        )
        self.made.wait_for(name, "Uvicorn running")

    def client(self, name: str, tables: Mapping[str, Any]) -> None:
        """A trainer of this file, and its node."""
        self.trainer(name, tables)
        self.node(name, tables, self.register(name))

    def trainer(self, name: str, tables: Mapping[str, Any]) -> None:
        self.tables[name] = tables
        file = self.made.folder / f"{name}.toml"
        file.write_text(tomli_w.dumps(tables))
        module = "flexlora.flower.trainer_process"
        self.made.start(f"trainer-{name}", sys.executable, "-m", module, str(file))

    def register(self, name: str) -> Path:
        """Let a node of this name in; its private key."""
        private, public = node_key(self.made.folder, name)
        process = self.made.start(
            f"register-{name}",
            *(command("flwr"), "supernode", "register", str(public), "here"),
        )
        assert process.wait(timeout=_PATIENCE) == 0, self.made.log(f"register-{name}")
        return private

    def node(self, name: str, tables: Mapping[str, Any], key: Path) -> None:
        told = ("--node-config", f'trainer="{tables["client"]["folder"]}"')
        self.stranger(name, self.certificates.authority, key, *told)

    def stranger(
        self, name: str, authority: Path, key: Path | None, *words: str
    ) -> subprocess.Popen[bytes]:
        """A node with this certificate and key, whether the SuperLink knows them or not."""
        keys = () if key is None else ("--auth-supernode-private-key", str(key))
        return self.made.start(
            f"node-{name}",
            *node_command(),
            *("--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port())),
            *("--root-certificates", str(authority), *keys, *words),
        )

    def kill_node_of(self, name: str) -> None:
        """The node that `flexlora flower client` has begun for this client."""
        client = psutil.Process(self.made.running[f"client-{name}"].pid)
        nodes = [x for x in client.children() if NODE in x.cmdline()]
        assert len(nodes) == 1
        nodes[0].kill()

    def by_command(self, name: str, tables: Mapping[str, Any]) -> None:
        """The same by `flexlora flower client`."""
        file = self.made.folder / f"{name}.toml"
        file.write_text(tomli_w.dumps(tables))
        process = self.made.start(
            f"client-{name}",
            *(sys.executable, "-m", "flexlora", "flower", "client", str(file)),
            *("--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port())),
            *("--root-certificates", str(self.certificates.authority)),
            *("--key", str(self.register(name))),
        )
        assert process.poll() is None

    def ready(self, names: Sequence[str]) -> None:
        for name in names:
            alone = f"client-{name}" in self.made.running
            for words, of in ((READY, "trainer"), ("SuperNode ID", "node")):
                self.made.wait_for(f"{'client' if alone else of}-{name}", words)

    def begin_run(self, name: str, config: Config, settings: ServerSettings) -> None:
        """`flwr run` of an app made for it."""
        app = write_app(self.made.folder / name, config, settings)
        words = [command("flwr"), "run", str(app), "here", "--stream"]
        self.made.start(f"run-{name}", *words)

    def run(self, name: str, config: Config, settings: ServerSettings, seconds: float) -> str:
        """The same, until it has ended; what it told."""
        self.begin_run(name, config, settings)
        process = self.made.running[f"run-{name}"]
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it went on for {seconds} s:\n{self.told()}") from error
        return self.made.log(f"run-{name}")

    def told(self) -> str:
        """All logs, for an error."""
        logs = sorted(self.made.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in logs)
