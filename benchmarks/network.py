"""What a network of Flower costs beside the work: seconds a round, and bytes.

python benchmarks/network.py [--out OUT.json]: a table; JSON beside it. Needs the extra
flexlora[flower]; takes a minute or two. The server's memory: network_memory.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psutil

from flexlora.errors import RunError
from flexlora.federation.ground import Ground
from flexlora.flower.server_settings import ServerSettings
from flexlora.runs.environment import environment
from flexlora.runs.events import Replied
from flexlora.runs.run_directory import Run
from flower.pipes import pipe
from flower.processes import Loopback, processes
from flower.trainers import client_tables, networked

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "flower.json"
ROUNDS = 4
DATA = {"train_tasks": 2}
EVALUATION = {"on_clients": "off", "every": 0, "decide_by": "server", "unseen": False}
PARTS = {"small": (8, ["q_proj"]), "large": (64, ["all-linear"])}  # Rank and targets.


def rounds(folder: Path, rank: int, targets: list[str]) -> dict[str, float]:
    """Two nodes over TLS on loopback: of rounds after the first, seconds beside the slowest
    client's training and what the server itself computes; of all, bytes by the pipe before the
    SuperLink, over bytes of payloads."""
    names = sorted(Ground.of(networked(data=DATA)).examples.train)
    with processes(folder) as made:
        network = Loopback.begin(made)
        direct = network.port
        with pipe(direct) as wire:
            for name in names:
                tables = client_tables(name, folder / f"c{names.index(name)}")
                tables["data"] |= DATA
                network.trainer(name, tables)
                key = network.register(name)
                network.port = wire.port
                network.node(name, tables, key)
                network.port = direct
            network.ready(names)
            config = networked(
                data=DATA,
                model={"targets": targets},
                clients={"ranks": dict.fromkeys(names, rank)},
                federation={"clients_per_round": 2, "rounds": ROUNDS},
                evaluation=EVALUATION,
            )
            before = wire.up + wire.down
            settings = ServerSettings(run=str(folder / "played"), clients=2, wait=90.0)
            told = network.run("run", config, settings, seconds=400)
            if not (folder / "played").is_dir():
                raise RunError(f"the run did not begin: {told[-3000:]}")
            carried = wire.up + wire.down - before
        trained: dict[int, float] = defaultdict(float)
        run = Run.open(folder / "played")
        for event in run.events(Replied):
            trained[event.round] = max(trained[event.round], event.seconds)
        records = run.records()
        beside = [x.seconds["clients"] - trained[x.round] for x in records[1:]]
        payloads = sum(x.bytes_down + x.bytes_up for x in records)
        return {
            "median_seconds": statistics.median(beside),
            "most_seconds": max(beside),
            "payload_bytes": payloads,
            "wire_bytes": carried,
            "wire_over_payloads": carried / payloads,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    load = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
    found: dict[str, Any] = {**before, "environment": environment(), "load_per_core": load}
    with tempfile.TemporaryDirectory() as place:
        for name, asked in PARTS.items():
            found[name] = rounds(Path(place) / name, *asked)
            print(name)
            for key, value in found[name].items():
                print(f"  {key:>20}  {value}")
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
