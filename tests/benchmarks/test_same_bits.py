"""Fingerprints of runs follow every bit of what a run gives, and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import same_bits
from flexlora import make_config
from same_bits_digests import PARTS, Fingerprint, fingerprint
from same_bits_play import Player, PlayError
from same_bits_runs import RUNS, with_needed
from same_bits_view import differences, table
from this_machine import machine, other_machine

ONES = torch.ones(2, 3)
FIVE = ("fedit", "flexlora", "flexlora-increment", "hetlora", "flora")
Given = dict[str, Any]


def given() -> Given:
    """What a run of one round leaves."""
    return {
        "tensors": {"layer|x|b": ONES, "delta|x|left": ONES, "patch|1|x|left": ONES},
        "metadata": {"made": "here"},
        "metrics": {
            "round": 1,
            "clients": ["a"],
            "train_loss": 1.5,
            "bytes_up": 7,
            "bytes_down": 8,
            "validation": {"loss": 2.0},
            "on_clients": {"global": {"loss": 3.0}, "failures": 0, "bytes_down": 9},
            "seconds": {"clients": 1.0},
        },
        "results": {
            "rounds": 1,
            "scored_round": 1,
            "bytes_down": 8,
            "seconds": 1.0,
            "rows": [{"state": "full", "unseen": {"loss": 4.0}}],
        },
        "adapter": {"x.lora_B.weight": ONES},
        "config": {"r": 2, "lora_alpha": 4, "base_model_name_or_path": "tiny"},
    }


def written(folder: Path, left: Given) -> Fingerprint:
    checkpoint, export = folder / "checkpoints" / "round-0001", folder / "rank 3"
    checkpoint.mkdir(parents=True)
    export.mkdir()
    save_file(_apart(left["tensors"]), checkpoint / "state.safetensors", left["metadata"])
    (folder / "metrics.jsonl").write_text(json.dumps(left["metrics"]) + "\n")
    (folder / "results.json").write_text(json.dumps(left["results"]))
    save_file(_apart(left["adapter"]), export / "adapter_model.safetensors")
    (export / "adapter_config.json").write_text(json.dumps(left["config"]))
    return fingerprint(folder, [export])


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(table: str, **keys: Any) -> Callable[[Given], None]:
    return lambda left: left[table].update(keys)


NEXT = torch.nextafter(ONES, 2 * ONES)  # Other by one bit.
CHANGES = {
    "layers": [
        changed("tensors", **{"layer|x|b": NEXT}),
        changed("tensors", **{"layer|y|b": ONES}),
    ],
    "delta": [
        changed("tensors", **{"delta|x|left": NEXT}),
        changed("tensors", **{"patch|1|x|left": ONES.bfloat16()}),
    ],
    "metrics": [
        changed("metrics", train_loss=1.5000000000000002),
        changed("metrics", clients=["b"]),
        changed("metrics", validation={"loss": 2.1}),
        changed("metrics", bytes_up=8),
        changed("metrics", on_clients={"global": {"loss": 3.1}, "failures": 0, "bytes_down": 9}),
    ],
    "bytes_down": [
        changed("metrics", bytes_down=9),
        changed("metrics", on_clients={"global": {"loss": 3.0}, "failures": 0, "bytes_down": 8}),
        changed("results", bytes_down=9),
    ],
    "exports": [changed("adapter", **{"x.lora_B.weight": NEXT}), changed("config", lora_alpha=5)],
    "results": [
        changed("results", scored_round=2),
        changed("results", rows=[{"state": "full", "unseen": {"loss": 4.1}}]),
    ],
}
NO_CHANGES = [
    changed("metadata", made="elsewhere"),
    changed("metrics", seconds={"clients": 2.0}),
    changed("results", seconds=2.0),
    changed("config", base_model_name_or_path="other"),
]


@pytest.mark.parametrize(
    ("part", "change"), [(part, change) for part in PARTS for change in CHANGES[part]]
)
def test_what_changes_shows_in_its_part_alone(
    part: str, change: Callable[[Given], None], tmp_path: Path
) -> None:
    left = given()
    change(left)
    before, after = written(tmp_path / "1", given()), written(tmp_path / "2", left)
    assert [part for part in PARTS if before[part] != after[part]] == [part]
    assert all(sentence.startswith(f"x, {part}, ") for sentence in told(before, after))
    assert "DIFFERENT" in table({"x": before}, {"x": after})


@pytest.mark.parametrize("change", NO_CHANGES)
def test_time_and_names_are_no_bits(change: Callable[[Given], None], tmp_path: Path) -> None:
    left = given()
    change(left)
    before, after = written(tmp_path / "1", given()), written(tmp_path / "2", left)
    assert before == after
    assert told(before, after) == []
    assert "All bits are the same." in table({"x": before}, {"x": after})


def told(before: Fingerprint, after: Fingerprint) -> list[str]:
    return differences({"x": before}, {"x": after})


def test_a_run_without_a_checkpoint_has_no_fingerprint(tmp_path: Path) -> None:
    left = given() | {"tensors": {"delta|x|left": ONES}}
    with pytest.raises(ValueError, match="no checkpoint"):
        written(tmp_path / "run", left)


def test_what_failed_or_was_not_kept_is_not_the_same() -> None:
    failed: Fingerprint = {"failed": {"why": "no disk"}}
    assert told(failed, failed) == ["x failed: no disk"] * 2
    assert differences({}, {"x": {"layers": {"round-0001": "1"}}})
    assert "not kept" in table({}, {"x": {"layers": {"round-0001": "1"}}})


@pytest.mark.parametrize(("loss", "code"), [(4.0, 0), (4.1, 1)])
def test_the_exit_code_tells(
    loss: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(_: Player, name: str) -> Fingerprint:
        left = given()
        left["results"]["rows"][0]["unseen"]["loss"] = losses[0]
        return written(tmp_path / f"{name} {losses.pop(0)} {len(losses)}", left)

    losses, out = [4.0, loss], ["--out", str(tmp_path / "kept.json")]
    monkeypatch.setattr(Player, "play", play)
    monkeypatch.setattr(same_bits, "RUNS", {"fedit-sgd": RUNS["fedit-sgd"]})
    assert same_bits.main(["--write", *out]) == 0
    assert same_bits.main(out) == code


def test_a_run_that_needs_one_that_failed_says_so(tmp_path: Path) -> None:
    with pytest.raises(PlayError, match="flora-adamw, which failed"):
        Player(tmp_path, tmp_path).play("continued")


def test_another_machine_is_named() -> None:
    here = machine()
    assert other_machine(here | {"commit": "1"}, here | {"commit": "2"}) == ""
    assert other_machine(here | {"torch": "1.0"}, here).startswith("torch 1.0, here ")


def test_the_set_covers_the_rules_and_hosts_and_its_configs_are_good() -> None:
    whole = {name: run for name, run in RUNS.items() if not run.how.startswith("continued")}
    configs = [make_config(**run.tables) for run in whole.values()]
    assert all(isinstance(config.run.clients_at_once, int) for config in configs)
    played = {(config.rule.name, config.training.host) for config in configs}
    assert played >= set(product(FIVE, ("fedit", "fedavg")))
    for name in RUNS:
        assert [*with_needed([name])][-1] == name
        assert set(with_needed([name])) == {name, RUNS[name].of} - {""}
