"""A run as the ServerApp plays it: made, or gone on with, in one run directory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from flexlora.allocation.devices import Device
from flexlora.config.config import Config
from flexlora.config.config_file import load_config
from flexlora.errors import RunError, shown
from flexlora.federation.session import Session
from flexlora.flower.network import Network
from flexlora.flower.nodes import Link
from flexlora.flower.server_settings import ServerSettings, read_settings
from flexlora.flower.told import devices_told, names_of
from flexlora.formats.home import expanded
from flexlora.formats.json_fields import text
from flexlora.formats.visible import visible
from flexlora.formats.words import count
from flexlora.runs.events import (
    Allotted,
    Ended,
    Event,
    Failed,
    Noted,
    Repeated,
    Rested,
    RoundEnded,
    Started,
)
from flexlora.runs.run_directory import Run

Say = Callable[[str], None]


def play(link: Link, given: Mapping[str, Any], app: Path, say: Say) -> Path:
    """Play the run that Flower's run config asks for; its folder.

    app: the folder of the Flower app, in which its config lies. say: is told what happens, in
    sentences. A run that has ended is left as it is. Raises as `Session` and `Network` do, and
    RunError for a run of another config.
    """
    settings = read_settings(given)
    config = load_config(app / expanded(settings.config))
    folder = expanded(settings.run) if settings.run else None
    if folder is None or not folder.exists():
        network = _network(link, secrets.token_hex(16), settings, settings.clients, None)
        result = Session.of(config, place=network).play(folder, observer=Saying(say))
        return Path(result.folder)
    run = Run.open(folder)
    _require_same(run, config)
    if run.ended() is not None:
        say(f"the run in {folder} has ended; name another one for a new run")
        return folder
    with run.undamaged("resolved.toml"):
        known = text(run.resolved, "network")
    with run.undamaged("data.json"):
        names, devices = names_of(run.data), devices_told(run.data)
    say(f"goes on with the run in {folder}; waits for {', '.join(names)}")
    network = _network(link, known, settings, names, devices)
    Session.resuming(folder, place=network).play(observer=Saying(say))
    return folder


def _network(
    link: Link,
    run: str,
    settings: ServerSettings,
    clients: int | list[str],
    devices: Mapping[str, Device] | None,
) -> Network:
    wait, deadline = settings.wait, settings.deadline
    return Network(link, run, clients, wait=wait, deadline=deadline, devices=devices)


def _require_same(run: Run, config: Config) -> None:
    """Raise RunError, naming the first key, where the app has another config than the run."""
    was, now = run.config.document(), config.document()
    for table in sorted(was.keys() | now.keys()):
        mine, theirs = now.get(table, {}), was.get(table, {})
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise RunError(
                    f"{run.folder} was begun with {table}.{key} {shown(theirs.get(key))}, the app "
                    f"has {shown(mine.get(key))}; give it the run's config, or name another run"
                )


@final
class Saying:
    """An observer that tells what happens in sentences, for the log of Flower."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def told(self, event: Event) -> None:
        if words := _words(event):
            # One line each: a client's own text in it makes no line that looks like another's.
            self._say(visible(" ".join(words.split())))


def _words(event: Event) -> str:
    if isinstance(event, Started):
        kinds = ", ".join(f"{number} of {kind}" for kind, number in event.clients.items())
        return f"{event.run}: {event.rule} on {event.model}, {kinds}; after round {event.round}"
    if isinstance(event, Failed):
        return f"round {event.round}: client {event.client} failed: {event.reason}"
    if isinstance(event, RoundEnded):
        record = event.record
        return (
            f"round {record.round}: {count(len(record.clients), 'client')}, train loss "
            f"{record.train_loss:.4f}, {record.bytes_down:,} bytes down, {record.bytes_up:,} up"
        )
    if isinstance(event, Noted):
        return event.text
    if isinstance(event, Allotted | Repeated | Rested):
        return event.words
    return f"ended: {event.run}" if isinstance(event, Ended) else ""
