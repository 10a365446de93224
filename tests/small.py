"""The smallest federation there is: the embedded model, few and short examples, or no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flexlora.adapters import Adapter, Delta, Factors, LayerSpec, factors_payload, payload_adapter
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.engines.jobs import Failure, Job, Outcome, Reply, Train
from flexlora.federation.sending import Sender
from flexlora.federation.setup import Setup
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.rules import Memory, Rule, Spec
from flexlora.runs.records import RoundRecord
from flexlora.training import Recipe

LAYERS = (LayerSpec("x.q_proj", 6, 5), LayerSpec("x.up_proj", 4, 7))

SMALL: dict[str, dict[str, Any]] = {
    "model": {"name": "tiny", "device": "cpu", "targets": ["q_proj", "down_proj"]},
    "data": {
        "source": "embedded",
        "train_tasks": 4,
        "unseen_tasks": 2,
        "examples_per_task": 6,
        "unseen_examples_per_task": 1,
        "max_tokens": 250,
    },
    "clients": {"mix": {"low": 0.5, "high": 0.5}, "types": {"low": 2, "high": 4}},
    "training": {"learning_rate": 1e-2, "batch_size": 2, "max_steps": 2},
    "federation": {"rounds": 3, "clients_per_round": 2, "patience": 0},
    "evaluation": {
        "validation_examples": 2,
        "on_clients": "tuned",
        "own_examples": 2,
        "max_new_tokens": 2,
    },
    "run": {"threads": 1, "clients_at_once": 2},
}

FACTS: dict[str, dict[str, Any]] = {
    "model": {"name": "tiny", "device": "cpu", "prompt": "plain", "targets": ["q_proj", "v_proj"]},
    "data": {"source": "facts", "facts": 12, "owners": 4, "control": 3, "max_tokens": 24},
    "clients": {"mix": {"weak": 0.5, "strong": 0.5}, "types": {"weak": 1, "strong": 4}},
    "training": {"learning_rate": 1e-2, "batch_size": 3, "epochs": 2},
    "federation": {"rounds": 2, "clients_per_round": 4},
    "evaluation": {"metrics": ["bits", "loss"], "metric": "bits", "max_new_tokens": 4},
    "run": {"threads": 1, "clients_at_once": 4},
}


def small(**tables: Mapping[str, Any]) -> Config:
    """The small config with these keys on top: `small(rule={"name": "fedit"})`."""
    names = {**SMALL, **tables}
    return parse_config({name: {**SMALL.get(name, {}), **tables.get(name, {})} for name in names})


def facts(**tables: Mapping[str, Any]) -> Config:
    """The same for facts."""
    return parse_config({name: {**FACTS[name], **tables.get(name, {})} for name in FACTS})


def write(config: Config, path: Path) -> Path:
    path.write_text(config.to_toml())
    return path


def round_record(round: int, **changes: Any) -> RoundRecord:
    """A round that was played in 10 s, and not validated."""
    given: dict[str, Any] = {
        "round": round,
        "learning_rate": 0.5,
        "clients": ("a", "b"),
        "types": {"low": 1, "high": 1},
        "failures": 0,
        "train_loss": 1.25,
        "examples": 4,
        "tokens": 90,
        "bytes_down": 1_000_000,
        "bytes_up": 2_000_000,
        "seconds": {"clients": 9.0, "combine": 1.0},
    }
    return RoundRecord(**{**given, **changes})


def first_jobs(setup: Setup, rule: Rule) -> list[Train]:
    """Of all clients in round 1, in order of their ids."""
    sender = Sender(rule, setup.settings.schedule, Streams(0))
    clients = sorted(setup.examples.train)
    return sender.training(sender.begin(setup.spec), setup.roster.fresh_store(), clients).jobs


def train_job(client: str, payload: bytes = b"", /, **changes: Any) -> Train:
    """A job of round 1, on a base without Δ."""
    given = {
        "id": "1-0",
        "round": 1,
        "delta": Delta(),
        "held": None,
        "origin": False,
        "sides": "both",
        "recipe": Recipe("adamw", 1e-2, 2, max_steps=1),
        "seed": 0,
        "metrics": (),
        "bytes_down": len(payload),
    }
    return Train(client=client, payload=payload, **{**given, **changes})


def spec(*ranks: int) -> Spec:
    return Spec.of(LAYERS, [{layer.name: rank for layer in LAYERS} for rank in ranks])


def moved(adapter: Adapter, seed: int, size: float = 0.1) -> Adapter:
    """What a client might have trained: both factors moved by noise."""
    draw = torch.Generator().manual_seed(seed)
    return Adapter(
        {
            name: Factors(
                f.b + size * torch.randn(f.b.shape, generator=draw),
                f.a + size * torch.randn(f.a.shape, generator=draw),
                f.scale,
            )
            for name, f in adapter.items()
        }
    )


def read(payload: bytes) -> Adapter:
    return payload_adapter(from_bytes(payload))


def reply_to(job: Job, adapter: Adapter, /, **changes: Any) -> Reply:
    given = {
        "job": job.id,
        "client": job.client,
        "payload": to_bytes(factors_payload(adapter)),
        "examples": 3,
        "loss": 1.0,
        "steps": 2,
        "tokens": 20,
        "seconds": 0.1,
    }
    return Reply(**{**given, **changes})


def all_train(jobs: Sequence[Job]) -> list[Train]:
    """The same jobs, none of which is to evaluate."""
    found = [job for job in jobs if isinstance(job, Train)]
    assert len(found) == len(jobs)
    return found


class Noise:
    """A transport without a model: every client returns what it was sent, moved by noise.

    fails: clients that give a Failure instead; backwards: replies come in the reverse order.
    """

    def __init__(self, rule: Rule, fails: Sequence[str] = (), *, backwards: bool = False) -> None:
        self.rule = rule
        self.fails = fails
        self.backwards = backwards
        self.jobs: list[Train] = []
        self.memories: dict[str, Memory] = {}

    def exchange(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        asked = all_train(jobs)
        self.jobs += asked
        for job in reversed(asked) if self.backwards else asked:
            if job.client in self.fails:
                yield Failure(job.id, job.client, "its disk is full")
                continue
            received = self.rule.receive(read(job.payload), self.memories.get(job.client, {}))
            trained = moved(received, job.seed).only(job.sides).filled(received)
            memory = self.memories.get(job.client, {})
            encoded = self.rule.reply(job.round, trained, received, memory)
            self.memories[job.client] = encoded.memory
            yield reply_to(job, encoded.adapter)

    def close(self) -> None: ...
