"""What a network of Flower costs beside the work: seconds a round, bytes, and the server's memory.

python benchmarks/network.py [--out OUT.json] [--part rounds|memory]: a table; JSON beside it.
Needs the extra flexlora[flower]; takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import psutil
import torch

from flexlora.adapters import Adapter, Factors, factors_payload
from flexlora.engines.jobs import Reply
from flexlora.errors import RunError
from flexlora.federation.collector import Plain
from flexlora.federation.ground import Ground
from flexlora.flower.described import DESCRIBE
from flexlora.flower.grid import Grid
from flexlora.flower.local import NAME, ask, listening, private_folder, serve
from flexlora.flower.mailbox import Mailbox
from flexlora.flower.nodes import Came, Node
from flexlora.flower.outcomes import outcome_packet
from flexlora.flower.packets import Header, Packet, packed, read_header, unpacked
from flexlora.flower.register import Register
from flexlora.flower.server_settings import ServerSettings
from flexlora.formats.payloads import to_bytes
from flexlora.rules import make_rule
from flexlora.runs.environment import environment
from flexlora.runs.events import Replied
from flexlora.runs.run_directory import Run
from flower.pipes import pipe
from flower.processes import Loopback, processes
from flower.test_register import NORTH
from flower.trainers import client_tables, networked, plan_of
from measuring import in_child, own_memory
from small import train_job

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "flower.json"
ROUNDS = 4
DATA = {"train_tasks": 2}
EVALUATION = {"on_clients": "off", "every": 0, "decide_by": "server", "unseen": False}
# Linear layers of a model of 110 million numbers, of which 85 million are in these.
WIDTH, WIDE, BLOCKS, RANK = 768, 3072, 12, 64
FEW, MANY = 4, 16


def rounds(folder: Path, rank: int, targets: list[str]) -> dict[str, float]:
    """Two nodes over TLS on loopback: of rounds after the first, seconds beside the slowest
    client's training and what the server itself computes; of all, bytes by the pipe before the
    SuperLink, over bytes of payloads; and how often a base model was read."""
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


def memory(clients: int, folder: str) -> dict[str, float]:
    """By how much own memory rises at most while so many answers come in chunks, are checked, and
    lie on disk. Clients are in another process, and messages lie on disk until they are fetched:
    Flower's own memory is not in it."""
    adapter = _adapter()
    payload = to_bytes(factors_payload(adapter))
    names = [f"c{i:02}" for i in range(clients)]
    place = Path(folder) / str(clients)
    there = private_folder(place / "c")
    clients_of = multiprocessing.get_context("spawn").Process(target=_serve, args=(str(there),))
    clients_of.start()
    while not (there / NAME).exists():
        time.sleep(0.05)
    try:
        link, plan = _DiskLink(place / "network", there, names), plan_of(networked())
        register = Register(link, plan, NORTH.model, deadline=60.0)
        grid = Grid(link, register, plan, deadline=300.0, folder=place / "wire", poll=0.0)
        collector = Plain(place / "spool", make_rule("flexlora"))
        jobs = [replace(train_job(x, payload), id=f"1-{i}") for i, x in enumerate(names)]
        register.look()
        began = time.perf_counter()
        with own_memory() as rise:
            outcomes = grid.exchange(jobs)
            for _, found in collector.collect(jobs, outcomes, dict.fromkeys(names, adapter)):
                came = len(found.replies)
        took = time.perf_counter() - began
    finally:
        clients_of.kill()
        clients_of.join()
    assert came == clients, found.failures
    return {"payload_bytes": len(payload), "rise_bytes": rise[0], "seconds": took}


def _adapter() -> Adapter:
    torch.manual_seed(0)
    shapes = {f"{i}.{k}": (WIDTH, WIDTH) for i in range(BLOCKS) for k in "qkvo"}
    shapes |= {f"{i}.up": (WIDE, WIDTH) for i in range(BLOCKS)}
    shapes |= {f"{i}.down": (WIDTH, WIDE) for i in range(BLOCKS)}
    return Adapter(
        {
            name: Factors(torch.randn(m, RANK), torch.randn(RANK, n), 1.0)
            for name, (m, n) in shapes.items()
        }
    )


class _DiskLink:
    """A network that keeps messages on disk until they are fetched."""

    def __init__(self, folder: Path, clients: Path, names: list[str]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._clients, self._names = folder, clients, names
        self._count = 0

    def nodes(self) -> list[Node]:
        return [Node(place) for place in range(len(self._names))]

    def push(self, node: int, header: bytes, body: bytes, seconds: float) -> str:
        read = read_header(header).packet
        if read.kind == DESCRIBE:
            named = Packet(DESCRIBE, read.address, {}, {"name": self._names[node]})
            header, body = packed(named)
        self._count += 1
        (self._folder / f"{self._count}.header").write_bytes(header)
        (self._folder / f"{self._count}.body").write_bytes(body)
        return str(self._count)

    def pull(self, message: str) -> Came:
        header, body = (self._folder / f"{message}.{part}" for part in ("header", "body"))
        found = ask(self._clients, header.read_bytes(), body.read_bytes())
        header.unlink()
        body.unlink()
        return Came(*found)


def _serve(folder: str) -> None:
    """All clients, each of which sends back what it was sent."""
    mailboxes: dict[str, Mailbox] = {}

    def do(header: Header, body: Callable[[], bytes]) -> Packet:
        packet = unpacked(header, body())
        asked = packet.address
        reply = Reply(asked.job, asked.client, packet.parts["payload"], 4, 0.5, 1, 20, 0.1)
        return outcome_packet(reply, asked)

    def answer(header: bytes, body: Callable[[], bytes]) -> tuple[bytes, bytes]:
        read = read_header(header)
        packet = read.packet
        if packet.kind == DESCRIBE:
            one = replace(NORTH, name=packet.facts["name"])
            return packed(one.to_packet(packet.address))
        name = packet.address.client
        if name not in mailboxes:
            mailboxes[name] = Mailbox(Path(folder) / name)
        mailbox = mailboxes[name]
        return packed(mailbox.answer(read, body, lambda _: None, do))

    with listening(Path(folder)) as listener:
        serve(listener, answer)


def measured(parts: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as place:
        if "rounds" in parts:
            yield "small", rounds(Path(place) / "s", 8, ["q_proj"])
        if "rounds" in parts:
            yield "large", rounds(Path(place) / "l", 64, ["all-linear"])
        if "memory" in parts:
            found = {n: in_child(memory, n, place, threads=1) for n in (FEW, MANY)}
            few, many = (found[n]["rise_bytes"] for n in (FEW, MANY))
            rises = {str(n): x for n, x in found.items()}
            yield "memory", {**rises, "many_over_few": many / few}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--part", choices=("rounds", "memory"))
    given = parser.parse_args()
    parts = [given.part] if given.part else ["rounds", "memory"]
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    load = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
    found: dict[str, Any] = {**before, "environment": environment(), "load_per_core": load}
    for name, figures in measured(parts):
        found[name] = figures
        print(name)
        for key, value in figures.items():
            print(f"  {key:>20}  {value}")
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
