"""What a server's processes take while real nodes answer it: 4 of them, and 16.

python benchmarks/network_memory.py [--out OUT.json]: a table; JSON beside it, under "processes".
Each client is Flower's node with its ClientApp processes, over TLS and with a key; what lies behind
it (benchmarks/light_clients.py) trains nothing and sends back as much as it was sent: an adapter of
rank 64 on a Llama of 113 million numbers. Needs flexlora[flower] and 10 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psutil

from flexlora.federation.ground import Ground
from flexlora.flower.local import NAME
from flexlora.flower.server_settings import ServerSettings
from flexlora.runs.environment import environment
from flexlora.runs.events import Replied, Started
from flexlora.runs.run_directory import Run
from flower.processes import Loopback, processes
from flower.trainers import networked
from flower.wide import wide_model
from measuring import in_child, new_file
from network import EVALUATION, OUT

# Linear layers of a model of 110 million numbers, of which 85 million are in these.
WIDTH, WIDE, BLOCKS, RANK = 768, 3072, 12, 64
FEW, MANY = 4, 16
LIGHT = Path(__file__).with_name("light_clients.py")
_POLL = 0.1


def fingerprint(model: str) -> str:
    asked = {"name": model, "targets": ["all-linear"]}
    return Ground.of(networked(model=asked, data={"train_tasks": 2})).fingerprint


def memory(clients: int, model: str, base: str, folder: Path) -> dict[str, Any]:
    """By how many bytes the memory of the SuperLink and of the ServerApp rises at most in a run of
    one round, above what each had before the first job was sent."""
    names = [f"c{place:02}" for place in range(clients)]
    places = {name: folder / name for name in names}
    config = networked(
        model={"name": model, "targets": ["all-linear"]},
        clients={"ranks": dict.fromkeys(names, RANK)},
        federation={"clients_per_round": clients, "rounds": 1},
        evaluation=EVALUATION,
    )
    with processes(folder / "p") as made:
        network = Loopback.begin(made)
        words = (f"{name}={place}" for name, place in places.items())
        made.start("light", sys.executable, str(LIGHT), base, *words)
        while not all((place / NAME).exists() for place in places.values()):
            assert made.running["light"].poll() is None, made.log("light")
            time.sleep(_POLL)
        for name in names:
            network.node(name, {"client": {"folder": str(places[name])}}, network.register(name))
        for name in names:
            made.wait_for(f"node-{name}", "SuperNode ID")
        out = folder / "run"
        settings = ServerSettings(run=str(out), clients=clients, wait=300.0, deadline=1200.0)
        network.begin_run("run", config, settings)
        link, run = psutil.Process(made.running["superlink"].pid), made.running["run-run"]
        idle, before = dict[str, int](), dict[str, int]()
        most = dict.fromkeys(("superlink", "serverapp"), 0)
        while run.poll() is None:
            here = {"superlink": _held(link), "serverapp": _held(_server_app(link))}
            if not idle and out.is_dir() and Run.open(out).events(Started):
                idle = before
            before = here
            for what, held in here.items():
                most[what] = max(most[what], held)
            time.sleep(_POLL)
        assert out.is_dir(), network.told()[-3000:]
        records = Run.open(out).records()
        assert [len(record.clients) for record in records] == [clients], network.told()[-3000:]
        return {
            "payload_bytes": Run.open(out).events(Replied)[0].bytes_up,
            "idle_bytes": idle,
            "rise_bytes": {what: most[what] - idle[what] for what in most},
            "seconds": records[0].seconds["clients"],
        }


def _server_app(link: psutil.Process) -> psutil.Process | None:
    for one in link.children(recursive=True):
        try:
            if any("flwr-serverapp" in word for word in one.cmdline()):
                return one
        except psutil.Error:
            continue
    return None


def _held(process: psutil.Process | None) -> int:
    """Bytes of its own, files that are mapped left out."""
    try:
        text = "" if process is None else Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in text.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=new_file, default=OUT)
    given = parser.parse_args()
    os.environ["MALLOC_ARENA_MAX"] = "1"  # As DEPLOY.md has it for the SuperLink.
    found: dict[str, Any] = {"environment": environment()}
    with tempfile.TemporaryDirectory() as place:
        model = wide_model(Path(place) / "m", hidden=WIDTH, wide=WIDE, layers=BLOCKS)
        base = in_child(fingerprint, str(model), threads=1)
        for clients in (FEW, MANY):
            found[str(clients)] = memory(clients, str(model), base, Path(place) / str(clients))
            print(clients, found[str(clients)], flush=True)
    for what in ("superlink", "serverapp"):
        few, many = (found[str(n)]["rise_bytes"][what] for n in (FEW, MANY))
        found[f"{what}_many_over_few"] = many / few
    few, many = (sum(found[str(n)]["rise_bytes"].values()) for n in (FEW, MANY))
    found["many_over_few"] = many / few
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps({**before, "processes": found}, indent=2) + "\n")
    print({key: value for key, value in found.items() if "over" in key})


if __name__ == "__main__":
    main()
