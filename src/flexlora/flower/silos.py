"""A config's clients, dealt out among silos that are tried on one machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexlora.config.config import Config
from flexlora.config.schedule import clients_per_round
from flexlora.errors import ConfigError
from flexlora.federation.examples import Dealt
from flexlora.flower.client_file import COMMON
from flexlora.formats.words import count

Tables = dict[str, dict[str, Any]]
"""Of a client's file."""


def silos_of(
    config: Config, silos: int, ranks: Sequence[int] | None, folder: Path
) -> dict[str, Tables]:
    """Name → its client file, with a folder of its own below this one.

    As many silos as the config has clients are those clients, under their names; of fewer, each has
    the rows of several, dealt in order of name. ranks: of the silos, in order; None: the server
    decides. Raises InputErrors for data that cannot be read, and ConfigError for more silos than
    clients, another number of ranks, and more clients a round than silos.
    """
    if ranks is not None and len(ranks) != silos:
        raise ConfigError(
            f"--ranks has {len(ranks)} and --clients is {silos}; give a rank for each"
        )
    clients_per_round(config.federation.clients_per_round, silos)
    names = sorted(client.id for client in Dealt.of(config).clients if client.train)
    if len(names) < silos:
        raise ConfigError(
            f"--clients is {silos}, but the data comes to {count(len(names), 'client')}; lower it"
        )
    threads = max(1, (os.cpu_count() or 1) // silos)
    found: dict[str, Tables] = {}
    for place in range(silos):
        mine = names[place::silos]
        name = mine[0] if len(names) == silos else f"silo {place + 1}"
        tables = _tables(config, name, mine, folder / str(place))
        if ranks is not None:
            tables["client"]["rank"] = ranks[place]
        if config.run.threads is None:
            tables["run"] = {"threads": threads}
        found[name] = tables
    return found


def _tables(config: Config, name: str, owners: Sequence[str], folder: Path) -> Tables:
    document = config.document()
    rows = {} if list(owners) == [name] else {"owners": list(owners)}
    return {
        "client": {"name": name, "rows": "named", "labels": True, "folder": str(folder), **rows},
        "model": {"name": config.model.name, "device": config.model.device},
        "data": {key: value for key, value in document["data"].items() if key not in COMMON},
        "partition": document["partition"],
    }
