"""Run directories of any size that no model played, written through `Run` as the loop does."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexlora.runs.events import Failed
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from small import small

TYPES = {"phone": "2", "laptop": "8", "server": "32"}
TEXT = ("rouge_l", "exact_match")
MODULES = ("q_proj", "v_proj", "up_proj", "down_proj")


def synthetic_run(
    folder: Path,
    *,
    rounds: int = 200,
    clients: int = 1600,
    unseen: int = 200,
    labels: int = 30,
    layers: int = 8,
    seed: int = 0,
    rule: str = "flexlora",
    lift: float = 1.0,
    failing: float = 0.02,
    finished: bool = True,
    metrics: Sequence[str] = ("rouge_l", "exact_match", "loss"),
    prefix: str = "client",
) -> Path:
    """A plausible run: falling losses, rising scores, a slowly collapsing rank, some failures.

    lift scales what the run learns; metrics: those scored; prefix: what client ids begin with.
    """
    draw = random.Random(seed)
    ids = [f"{prefix} {i:04d}" for i in range(clients)]
    types = {name: draw.choices(list(TYPES), (6, 3, 1))[0] for name in ids}
    config = small(
        rule={"name": rule},
        clients={
            "mix": {"phone": 0.6, "laptop": 0.3, "server": 0.1},
            "types": {"phone": 2, "laptop": 8, "server": 32},
        },
        federation={"rounds": max(1, rounds), "seed": seed},
    )
    holdings = [_holding(name, types[name], labels, draw) for name in ids]
    others = [_holding(f"unseen {i:04d}", "", labels, draw) for i in range(unseen)]
    run = Run.create(
        config,
        folder,
        resolved={
            "threads": 1,
            "clients": dict(Counter(types.values())),
            "ranks": {name: rank for name, rank in TYPES.items() if name in types.values()},
        },
        data={
            "source": "synthetic",
            "fingerprint": "f" * 64,
            "model_fingerprint": "e" * 64,
            "clients": clients,
            "partition": {
                "by": "dirichlet",
                "label": "category",
                "clients": holdings,
                "unseen": [{k: x[k] for k in ("id", "test", "labels")} for x in others],
            },
        },
    )
    every = max(1, rounds // 40)
    for number in range(1, rounds + 1):
        _play(run, number, ids, types, draw, every, lift, failing, metrics, layers)
    if rounds:
        run.write_checkpoint(rounds, {}, {})
    if finished:
        rows = [
            _row("base", "", 0.0, ids, others, labels, draw, metrics),
            _row("full", "full", lift, ids, others, labels, draw, metrics),
        ]
        for at, (name, rank) in enumerate(TYPES.items(), 1):
            scale = lift * (0.7 + 0.1 * at)
            rows.append(_row(name, rank, scale, ids, others, labels, draw, metrics))
        recorded = run.read_metrics()
        run.write_results(
            {
                "rule": rule,
                "rounds": rounds,
                "scored_round": rounds - rounds % every,
                "bytes_up": sum(m["bytes_up"] for m in recorded),
                "bytes_down": sum(m["bytes_down"] for m in recorded),
                "seconds": 1.0,
                "rows": rows,
            }
        )
    return folder


def _holding(name: str, kind: str, labels: int, draw: random.Random) -> dict[str, Any]:
    size = int(math.exp(draw.gauss(3.5, 0.7))) + 4
    kept = draw.sample(range(labels), min(labels, draw.randint(1, 6)))
    held = Counter(f"category {draw.choice(kept):02d}" for _ in range(size))
    part = max(1, size // 10)
    return {
        "id": name,
        "type": kind,
        "train": size - 2 * part,
        "validation": part,
        "test": part,
        "labels": dict(held),
    }


def _score(metric: str, learned: float, draw: random.Random) -> float:
    """learned: 0 as the base model … 1."""
    if metric in ("loss", "perplexity"):
        loss = 1.2 + 2.8 * math.exp(-1.6 * learned) + draw.gauss(0, 0.03)
        return loss if metric == "loss" else math.exp(loss)
    return min(100.0, max(0.0, 4.0 + 38.0 * (1 - math.exp(-1.4 * learned)) + draw.gauss(0, 0.8)))


def _play(
    run: Run,
    number: int,
    ids: Sequence[str],
    types: Mapping[str, str],
    draw: random.Random,
    every: int,
    lift: float,
    failing: float,
    metrics: Sequence[str],
    layers: int,
) -> None:
    cohort = draw.sample(list(ids), max(1, min(len(ids), 40)))
    failed = [name for name in cohort[1:] if draw.random() < failing]
    for name in failed:
        reason = draw.choice(("no reply", "out of memory", "the update is not finite"))
        run.append_event(Failed(number, name, reason))
    replied = [name for name in cohort if name not in failed]
    learned = lift * (1 - math.exp(-number / 60)) if lift else 0.0
    record: dict[str, Any] = {
        "round": number,
        "learning_rate": 1e-3,
        "clients": replied,
        "types": dict(Counter(types[name] for name in replied)),
        "failures": len(failed),
        "train_loss": _score("loss", learned, draw),
        "examples": 30 * len(replied),
        "tokens": 900 * len(replied),
        "bytes_down": sum(40_000 * int(TYPES[types[name]]) for name in replied),
        "bytes_up": sum(39_000 * int(TYPES[types[name]]) for name in replied),
        "seconds": {"clients": 8 + draw.random(), "combine": 0.6, "validate": 0.1},
    }
    if number % every == 0:
        record["seconds"]["validate"] = 2.5
        values = {name: _score(name, learned, draw) for name in metrics}
        record["validation"] = {"clients": 100, "examples": 200, **values}
        record["on_clients"] = {
            kind: {
                "clients": 100,
                "examples": 800,
                "metrics": {
                    name: {
                        "mean": _score(name, learned * more, draw),
                        "worst": _score(name, learned * more * 0.4, draw),
                        "spread": 2.0 + draw.random(),
                    }
                    for name in metrics
                },
            }
            for kind, more in (("global", 0.9), ("tuned", 1.1))
        } | {"failures": 0, "bytes_down": 1000}
        run.append_spectra(_spectrum(number, layers, draw))
    run.append_metrics(RoundRecord.from_json(record))


def _spectrum(number: int, layers: int, draw: random.Random) -> dict[str, Any]:
    found = {}
    for layer in range(layers):
        for at, module in enumerate(MODULES):
            fall = 0.06 + 0.02 * at + number / 2500 + 0.01 * draw.random()
            values = [round((1 + number / 50) * math.exp(-fall * i), 5) for i in range(32)]
            total = sum(values)
            shares = [value / total for value in values]
            found[f"layers.{layer}.{module}"] = {
                "values": values,
                "effective_rank": math.exp(-sum(p * math.log(p) for p in shares)),
                "rank": 32,
                "norm": math.sqrt(sum(value**2 for value in values)),
            }
    return {"round": number, "layers": found}


def _row(
    state: str,
    ranks: str,
    learned: float,
    ids: Sequence[str],
    others: Sequence[Mapping[str, Any]],
    labels: int,
    draw: random.Random,
    metrics: Sequence[str],
) -> dict[str, Any]:
    unseen = [str(other["id"]) for other in others]
    return {
        "state": state,
        "ranks": ranks,
        "unseen": _scores(unseen, labels, learned * 0.7, draw, metrics) if unseen else None,
        "own": _scores(ids, labels, learned, draw, metrics),
    }


def _scores(
    ids: Sequence[str], labels: int, learned: float, draw: random.Random, metrics: Sequence[str]
) -> dict[str, Any]:
    def values(more: float) -> dict[str, float]:
        return {name: _score(name, learned * more, draw) for name in metrics}

    return {
        "mean": {"clients": len(ids), "examples": 4 * len(ids), **values(1.0)},
        "categories": {
            f"category {i:02d}": {"clients": 3, "examples": 12, **values(0.4 + i / labels)}
            for i in range(labels)
        },
        "clients": [
            {
                "client": name,
                "category": f"category {i % labels:02d}",
                "examples": 4,
                **values(draw.gauss(1.0, 0.6)),
            }
            for i, name in enumerate(ids)
        ],
        "predictions": [
            {
                "client": name,
                "example": f"{name}-{i}",
                "text": "" if learned < 0.1 else f"{name} answers\nin two lines",
                "reference": f"what {name} should say",
                **{metric: x for metric, x in values(1.0).items() if metric in TEXT},
            }
            for i, name in enumerate(ids[:5])
        ],
    }
