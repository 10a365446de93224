"""The folder that an operator begins with: a Flower app, what to do with it, a silo's own file."""

from __future__ import annotations

import ipaddress
import json
import shlex
from importlib.resources import files
from pathlib import Path

from flexlora.config.config import Config
from flexlora.config.config_file import make_config
from flexlora.errors import ConfigError, shown
from flexlora.flower.app_folder import write_app
from flexlora.flower.networked import require_networked
from flexlora.flower.server_settings import ServerSettings

SERVER = "server.example:8000"


def sensible() -> Config:
    """A config to begin with: the embedded model, everybody in every round, scored at clients."""
    return make_config(
        clients={"scale": 0.125},
        rule={"name": "flexlora-increment"},
        data={"max_tokens": 256},
        training={"learning_rate": 3e-3},
        federation={"rounds": 5, "clients_per_round": 1.0},
        evaluation={
            "validation_examples": 0,
            "on_clients": "global",
            "decide_by": "clients",
            "unseen": False,
        },
    )


def write_deployment(folder: Path, config: Config, clients: int, server: str = SERVER) -> Path:
    """Make the folder, whole or not at all. server: host:port, as silos will call it.

    Raises ConfigError for a config that no network can play and for an address that is none, and
    RunError where the folder is there already.
    """
    require_networked(config)
    host, port = _address(server)
    words = {
        "@SERVER@": server,
        "@HOST@": host,
        "@PORT@": port,
        "@NAMES@": _names(host),
        "@CLIENTS@": str(clients),
        "@DIR@": shlex.quote(folder.name),
        "@MODEL@": json.dumps(config.model.name),
    }
    texts = {}
    for name in ("DEPLOY.md", "client.toml"):
        text = files("flexlora.flower").joinpath(name).read_text(encoding="utf-8")
        for mark, word in words.items():
            text = text.replace(mark, word)
        texts[name] = text
    return write_app(folder, config, ServerSettings(clients=clients), texts)


def _address(server: str) -> tuple[str, str]:
    """Of plain letters alone: both stand in commands for a shell."""
    host, _, port = server.rpartition(":")
    plain = host.strip("[]")
    named = plain.isascii() and plain.replace(".", "").replace("-", "").replace(":", "").isalnum()
    if not (named and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"--server is {shown(server)}; give host:port, as {SERVER}")
    return plain, port


def _names(host: str) -> str:
    """What the server's certificate is for: its name, and this machine's own, for Flower itself."""
    own = ["DNS:localhost", "IP:127.0.0.1"]
    try:
        name = f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        name = f"DNS:{host}"
    return ",".join(dict.fromkeys([name, *own]))
