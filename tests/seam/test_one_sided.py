"""One side is trained, sent back and combined; the other stays as it was, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.adapters import factors_payload
from flexlora.engines import in_process
from flexlora.engines.jobs import Reply
from flexlora.federation import Setup, run
from flexlora.federation.scoring import validate
from flexlora.federation.streams import Streams
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.rules import make_rule
from flexlora.runs.readout import load_adapter, load_state
from flexlora.runs.run_directory import Run
from small import small


def test_a_whole_run_moves_b_alone_and_half_the_numbers_travel_up(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[Reply] = []
    make = in_process.InProcess._reply

    def told(*arguments: Any) -> Reply:
        replies.append(make(*arguments))
        return replies[-1]

    monkeypatch.setattr(in_process.InProcess, "_reply", told)
    config = small(rule={"name": "ffa"}, training={"weight_decay": 0.1})
    result = run(config, tmp_path / "r", setup=setup)
    opened = Run.open(result.folder)
    for layer in load_state(opened, "last").layers.values():
        assert layer.keys() == {"b"}  # A is drawn wherever it is needed.
        assert bool(layer["b"].any())
    losses = [record["validation"]["loss"] for record in opened.read_metrics()]
    bare = validate(setup, {})
    assert bare is not None
    assert min(losses) < bare.mean()["loss"]

    up = both = 0
    for reply in replies:
        payload = from_bytes(reply.payload)
        assert {key.rpartition(".")[2] for key in payload.tensors} == {"b"}
        up += sum(tensor.nbytes for tensor in payload.tensors.values())
        both += sum(2 * (x.m + x.n) * 4 for x in setup.spec.layers)
    share = sum(x.m for x in setup.spec.layers) / sum(x.m + x.n for x in setup.spec.layers)
    assert up == round(share * both)
    whole = to_bytes(factors_payload(load_adapter(result.folder, 2)))
    (size,) = {len(reply.payload) for reply in replies}
    assert size < len(whole) * (share + 0.1)  # What is left of the header counts, too.
    assert result.bytes_up == size * len(replies)


def test_a_cohort_trains_what_each_trains_alone(setup: Setup, tmp_path: Path) -> None:
    """Dropout included; the side that rests in round 1 is the one that was drawn."""
    folders = []
    for at_once in (1, 4):
        config = small(
            rule={"name": "rolora"},
            training={"dropout": 0.1},
            federation={"rounds": 1, "clients_per_round": 4},
            evaluation={"unseen": False, "on_clients": "off"},
            run={"clients_at_once": at_once},
        )
        folders.append(run(config, tmp_path / str(at_once), setup=setup).folder)
    one, other = (load_state(Run.open(folder), "last") for folder in folders)
    first = make_rule("rolora").init(setup.spec, Streams(0).generator("init"))
    for name, layer in one.layers.items():
        assert bool(layer["b"].any())
        assert torch.allclose(layer["b"], other.layers[name]["b"], atol=1e-5)
        for found in (layer["a"], other.layers[name]["a"]):
            assert torch.equal(found, first.layers[name]["a"])
