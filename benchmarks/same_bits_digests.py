"""Fingerprints of a run, from what stays readable whatever FlexLoRA is inside.

Tensors by the safetensors library, without metadata; lines of metrics.jsonl and results.json by
the fields that are named here, without seconds; adapters as PEFT folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors

PARTS = ("layers", "delta", "metrics", "bytes_down", "exports", "results")
# Part → what it is of → digest, or the value itself where that is short.
Fingerprint = Mapping[str, Mapping[str, str]]
Tensor = tuple[str, Mapping[str, Any]]

_LINE = (
    "round",
    "learning_rate",
    "clients",
    "types",
    "failures",
    "train_loss",
    "examples",
    "tokens",
    "bytes_up",
    "cut",
    "validation",
)
_ON_CLIENTS = ("global", "tuned", "failures")
_SCALES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")


def fingerprint(run: Path, exports: Iterable[Path]) -> Fingerprint:
    """Of a run directory, and of PEFT folders that were exported from it.

    Raises OSError, ValueError or KeyError for what is not as it always was.
    """
    layers, delta = _checkpoints(run)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run / "results.json").read_text())
    return {
        "layers": layers,
        "delta": delta,
        "metrics": _metrics(metrics),
        "bytes_down": _bytes_down(metrics, results),
        "exports": {folder.name: _adapter(folder) for folder in exports},
        "results": _results(results),
    }


def _checkpoints(run: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Of all that is kept: what the rule holds ("layer|…"), and Δ with its patches.

    Raises ValueError where nothing is kept.
    """
    layers: dict[str, str] = {}
    delta: dict[str, str] = {}
    for path in sorted(run.glob("checkpoints/round-*/state.safetensors")):
        kinds: dict[str, list[Tensor]] = {}
        for name, tensor in safetensors.deserialize(path.read_bytes()):
            kinds.setdefault(name.partition("|")[0], []).append((name, tensor))
        for kind, tensors in sorted(kinds.items()):
            part, what = (layers, "") if kind == "layer" else (delta, f" {kind}")
            part[f"{path.parent.name}{what}"] = _of_tensors(tensors)
    if not layers:
        raise ValueError("no checkpoint holds a layer")
    return layers, delta


def _of_tensors(tensors: Iterable[Tensor]) -> str:
    """Over name, dtype, shape and bytes, in order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
        digest.update(tensor["data"])
    return digest.hexdigest()[:16]


def _of_values(values: Any) -> str:
    """Over JSON with sorted keys, in which every float has all its digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _metrics(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each field over all rounds; a field that no round has is left out."""
    found = {name: [line.get(name) for line in lines] for name in _LINE}
    for name in _ON_CLIENTS:
        found[f"on_clients.{name}"] = [line.get("on_clients", {}).get(name) for line in lines]
    return {
        name: _of_values(values)
        for name, values in found.items()
        if any(value is not None for value in values)
    }


def _bytes_down(lines: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> dict[str, str]:
    """The numbers themselves."""
    found = {
        "rounds": [line["bytes_down"] for line in lines],
        "on_clients": [x["on_clients"]["bytes_down"] for x in lines if "on_clients" in x],
        "in all": [results["bytes_down"]],
    }
    return {name: " ".join(map(str, numbers)) for name, numbers in found.items() if numbers}


def _adapter(folder: Path) -> str:
    """Its tensors, and what their scales follow from."""
    config = json.loads((folder / "adapter_config.json").read_text())
    scales = _of_values({key: config.get(key) for key in _SCALES})
    files = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
    tensors = [tensor for file in files for tensor in safetensors.deserialize(file)]
    return _of_values([scales, _of_tensors(tensors)])


def _results(results: Mapping[str, Any]) -> dict[str, str]:
    """Rounds as they are; scores of each state, generated texts included."""
    counts = {key: str(results[key]) for key in ("rounds", "scored_round")}
    return counts | {row["state"]: _of_values(row) for row in results["rows"]}
