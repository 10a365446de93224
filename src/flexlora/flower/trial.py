"""A whole federation on this machine, over TLS and with keys: begun, played, and taken down."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

import tomli_w

from flexlora.config.config import Config
from flexlora.errors import FlexLoRAError, WireError, cut_short
from flexlora.federation.observers import Observer
from flexlora.flower.app_folder import write_app
from flexlora.flower.begun import (
    Begun,
    end,
    flower_command,
    free_port,
    new_mark,
    node_command,
    surroundings,
)
from flexlora.flower.beside import Uplink
from flexlora.flower.door import reach
from flexlora.flower.keys import certificates, node_key
from flexlora.flower.local import NAME, private_folder
from flexlora.flower.server_settings import ServerSettings
from flexlora.flower.silos import Tables
from flexlora.formats.words import count
from flexlora.runs.events import Ended, Event
from flexlora.runs.run_directory import Run

_POLL = 0.25
_UP = 120.0  # Seconds in which a process comes up.
_WAIT, _DEADLINE = 600.0, 3600.0  # Seconds for all clients, and of a round.
_TOLD = re.compile(r"flexlora\.errors\.\w+: (.*)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CONNECTION = "here"
_SERVER = "SuperLink"


@final
class Trial:
    """The processes of one federation, with their files in one folder that nobody else can open.

    `play` leaves none of them, however it ends.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._running: dict[str, Begun] = {}
        self._mark = new_mark()
        self._logs: dict[str, Path] = {}
        self._environment = surroundings(FLWR_HOME=str(folder / "home"))
        self._port = free_port()

    def play(self, config: Config, silos: Mapping[str, Tables], out: Path, to: Observer) -> Ended:
        """Play the config with these silos into this run directory; `to` is told all of it.

        Raises FlexLoRAError, with what it said, where a process ends before its time.
        """
        try:
            self._up(silos)
            settings = ServerSettings(
                run=str(out.absolute()), clients=len(silos), wait=_WAIT, deadline=_DEADLINE
            )
            app = write_app(self._folder / "app", config, settings)
            run = self._begin("flwr run", "flwr", "run", str(app), _CONNECTION, "--stream")
            self._follow(run, out, to)
        finally:
            end(*self._running.values(), mark=self._mark)
        ended = Run.open(out).ended() if out.exists() else None
        if ended is None:
            raise FlexLoRAError(f"the run did not end: {self._last_words('flwr run')}")
        return ended

    def _up(self, silos: Mapping[str, Tables]) -> None:
        made = certificates(self._folder)
        address = f"127.0.0.1:{self._port}"
        connection = {"address": address, "root-certificates": str(made.authority)}
        (self._folder / "home").mkdir()
        text = tomli_w.dumps({"superlink": {"default": _CONNECTION, _CONNECTION: connection}})
        (self._folder / "home" / "config.toml").write_text(text, encoding="utf-8")
        self._begin(
            _SERVER,
            "flower-superlink",
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--database", str(self._folder / "superlink.db")),
            *("--disable-runtime-dependency-installation", "--enable-supernode-auth"),
            *made.flags(),
        )
        folders = [self._trainer(place, name, silos[name]) for place, name in enumerate(silos)]
        self._until(self._listening)
        keys = self._keys(len(silos))
        for place, (folder, key) in enumerate(zip(folders, keys, strict=True)):
            self._until((folder / NAME).exists)
            uplink = Uplink(address, made.authority, key, insecure=False, port=free_port())
            told = ("--node-config", f'trainer="{folder}"')
            self._start(f"node {place + 1}", *node_command(), *uplink.words(), *told)
        self._say(
            f"a SuperLink at {address} and {count(len(silos), 'silo')} are up, with TLS and keys"
        )

    def _trainer(self, place: int, name: str, tables: Tables) -> Path:
        file = self._folder / f"silo-{place + 1}.toml"
        file.write_text(tomli_w.dumps(tables), encoding="utf-8")
        words = (sys.executable, "-m", "flexlora.flower.trainer_process", str(file))
        self._start(f"trainer of {name}", *words)
        return private_folder(tables["client"]["folder"])

    def _keys(self, number: int) -> list[Path]:
        """Private keys that the SuperLink has let in."""
        made = [node_key(self._folder, f"node-{place + 1}") for place in range(number)]
        asking = [
            self._begin(f"registering {public.name}", "flwr", "supernode", "register", *words)
            for _, public in made
            for words in [(str(public), _CONNECTION)]
        ]
        self._until(lambda: all(process.poll() is not None for process in asking))
        for name in [name for name in self._running if name.startswith("registering")]:
            if self._running.pop(name).returncode:
                raise FlexLoRAError(f"{name} failed: {self._last_words(name)}")
        return [private for private, _ in made]

    def _listening(self) -> bool:
        try:
            reach(f"127.0.0.1:{self._port}").close()
        except WireError:
            return False
        return True

    def _follow(self, run: Begun, out: Path, to: Observer) -> None:
        """Tell what happens in the run until it has ended."""
        told, over = 0, False
        while not over:
            over = run.poll() is not None
            self._require_alive()
            if out.exists():
                events = Run.open(out).events(Event)
                for event in events[told:]:
                    to.told(event)
                told = len(events)
            if not over:
                time.sleep(_POLL)

    def _begin(self, name: str, program: str, *words: str) -> Begun:
        return self._start(name, flower_command(program), *words)

    def _start(self, name: str, *words: str) -> Begun:
        self._logs[name] = self._folder / f"{len(self._logs)}.log"
        self._running[name] = Begun(words, self._environment, self._logs[name], self._mark)
        return self._running[name]

    def _until(self, ready: Callable[[], bool]) -> None:
        limit = time.monotonic() + _UP
        while not ready():
            self._require_alive()
            if time.monotonic() > limit:
                words = self._last_words(_SERVER)
                raise FlexLoRAError(f"the federation did not come up in {_UP:g} s: {words}")
            time.sleep(_POLL)

    def _require_alive(self) -> None:
        """Of what stays until the run has ended: the SuperLink, the trainers and the nodes."""
        for name, process in self._running.items():
            stays = name == _SERVER or name.startswith(("trainer", "node"))
            if stays and process.poll() is not None:
                code = process.returncode
                raise FlexLoRAError(f"{name} ended (exit code {code}): {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        """The last sentence of ours in its log, else its last lines."""
        text = _COLOURS.sub("", self._logs[name].read_text(encoding="utf-8", errors="replace"))
        if ours := _TOLD.findall(text):
            return str(ours[-1])
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = [line.removeprefix("flexlora: ") for line in lines[-3:]]
        return cut_short(" ".join(last) or "it said nothing", 1000)
