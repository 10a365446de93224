"""A client of the small federation, and a trainer that is asked in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from flexlora.config.config import Config
from flexlora.flower.client_file import ClientFile, parse_client
from flexlora.flower.described import DESCRIBE
from flexlora.flower.packets import Address, Packet, packed, read_header, unpacked
from flexlora.flower.plan import Plan
from flexlora.flower.trainer import Trainer
from small import SMALL, small

DAY = date(2026, 11, 28)
DATA = {"train_tasks": 3}
EVALUATION = {
    "validation_examples": 0,
    "on_clients": "tuned",
    "decide_by": "clients",
    "own_examples": 0,
    "metrics": ["loss"],
    "types_at_end": False,
}


def networked(**tables: Mapping[str, Any]) -> Config:
    """The small config as it can be played over a network: one client at a time, one thread."""
    given: dict[str, dict[str, Any]] = {
        "model": {"targets": ["q_proj"]},
        "data": DATA,
        "training": {"max_steps": 1, "batch_size": 1},
        "federation": {"clients_per_round": 3},
        "evaluation": EVALUATION,
        "run": {"threads": 1, "clients_at_once": 1},
    }
    names = {**given, **tables}
    return small(**{name: {**given.get(name, {}), **tables.get(name, {})} for name in names})


def client_tables(name: str, folder: Path, **client: Any) -> dict[str, dict[str, Any]]:
    """Of the client that holds the rows of this task of the embedded data."""
    data = {key: value for key, value in {**SMALL["data"], **DATA}.items() if key != "max_tokens"}
    return {
        "client": {"name": name, "rows": "named", "folder": str(folder), **client},
        "model": {"name": "tiny", "device": "cpu"},
        "data": data,
    }


def client_file(name: str, folder: Path, **client: Any) -> ClientFile:
    return parse_client(client_tables(name, folder, **client))


def plan_of(config: Config, run: str = "a1") -> Plan:
    return Plan.of(config, run, DAY)


def ask(trainer: Trainer, packet: Packet, plan: Plan) -> Packet:
    """What the trainer answers to it in the run of this plan."""
    facts = {**packet.facts, "plan": plan.to_facts()}
    sent = Packet(packet.kind, packet.address, packet.parts, facts, packet.version)
    return answered(trainer.answer, sent)


def answered(answer: Callable[..., tuple[bytes, bytes]], packet: Packet) -> Packet:
    header, body = packed(packet)
    found, back = answer(header, lambda: body)
    return unpacked(read_header(found), back)


def describe(run: str = "a1") -> Packet:
    return Packet(DESCRIBE, Address(run, 0, "", "", "ask"))
