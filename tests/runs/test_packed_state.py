"""A state comes back bit for bit, through memory and through a run directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from flexlora.adapters import Scaling
from flexlora.config.config import Config
from flexlora.rules import RULES, State, make_rule
from flexlora.runs.packed_state import pack, unpack
from flexlora.runs.run_directory import Run
from reference import generator, play, random_training
from small import LAYERS, spec

RANKS = {"a": 2, "b": 4, "c": 3}


def after(name: str, rounds: int, size: float = 0.2) -> State:
    rule = make_rule(name)
    state = rule.init(spec(2, 3, 4), generator(1))
    for round in range(rounds):
        cohort = {
            client: rule.ranks_for(state.spec, {layer.name: rank for layer in LAYERS})
            for client, rank in RANKS.items()
            if client != "abc"[round % 3]
        }
        state = play(rule, state, cohort, random_training(round, size), seed=round)
    return state


def tensors_of(state: State) -> dict[str, torch.Tensor]:
    """Every tensor of a state, by its place: apart from how a checkpoint names them."""
    found = {f"{n}.{key}": tensor for n, x in state.layers.items() for key, tensor in x.items()}
    parts = {"delta": state.delta.layers} | {str(p.version): p.layers for p in state.delta.patches}
    for part, layers in parts.items():
        for name, matrix in layers.items():
            found[f"{part}.{name}.left"] = matrix.left
            found[f"{part}.{name}.right"] = matrix.right
    return found


def assert_same(got: State, wanted: State) -> None:
    assert (got.round, got.spec) == (wanted.round, wanted.spec)
    assert got.delta.version == wanted.delta.version
    versions = [[patch.version for patch in x.delta.patches] for x in (got, wanted)]
    assert versions[0] == versions[1]
    ours, theirs = tensors_of(got), tensors_of(wanted)
    assert ours.keys() == theirs.keys()
    for path, tensor in theirs.items():
        assert ours[path].dtype == tensor.dtype, path
        assert torch.equal(ours[path], tensor), path


@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_every_scaling_comes_back(scaling: Scaling) -> None:
    rule, asked = make_rule("flexlora"), replace(spec(3, 4), scaling=scaling)
    state = rule.init(asked, generator(1))
    tensors, meta = pack(state)
    back = unpack(dict(tensors), json.loads(json.dumps(meta))).spec
    assert back == asked
    assert [back.scale(rank) for rank in (3, 4)] == [asked.scale(rank) for rank in (3, 4)]


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_comes_back_from_disk(tmp_path: Path, name: str, rounds: int) -> None:
    state = after(name, rounds)
    run = Run.create(Config(), tmp_path / "run")
    tensors, meta = pack(state)
    run.write_checkpoint(rounds, tensors, meta)
    loaded, read = run.load_checkpoint() or pytest.fail("no checkpoint")
    assert loaded.keys() == tensors.keys()
    back = unpack(loaded, read)
    assert_same(back, state)
    # What it does next is the same too: the next round ends at the same bits.
    rule = make_rule(name)
    cohort = {"b": rule.ranks_for(state.spec, {layer.name: 4 for layer in LAYERS})}
    assert_same(
        play(rule, back, cohort, random_training(9)), play(rule, state, cohort, random_training(9))
    )


def test_patches_of_delta_survive() -> None:
    """Small steps on a large Δ: several patches are held, with versions of two digits."""
    state = after("flexlora-increment", 1, size=0.5)
    rule = make_rule("flexlora-increment")
    for round in range(1, 11):
        one = {"b": {layer.name: 1 for layer in LAYERS}}
        state = play(rule, state, one, random_training(round, 0.001), seed=round)
    assert state.delta.version == 11
    assert state.delta.patches, "no patch was kept: the test shows nothing"
    tensors, meta = pack(state)
    back = unpack(tensors, json.loads(json.dumps(meta)))
    assert_same(back, state)
    for held in (None, 0, 9, 10, 11):
        ours, theirs = back.delta.since(held), state.delta.since(held)
        if ours is None or theirs is None:
            assert ours is theirs is None
            assert held == 11
            continue
        assert (ours.version, ours.start) == (theirs.version, theirs.start)
        for name, matrix in theirs.layers.items():
            assert torch.equal(ours.layers[name].left, matrix.left)
            assert torch.equal(ours.layers[name].right, matrix.right)


def test_a_changed_bit_is_seen() -> None:
    state = after("flexlora", 1)
    tensors, meta = pack(state)
    path = next(path for path in tensors if path.endswith("|u"))
    other = {**tensors, path: tensors[path].clone()}
    other[path][0, 0] += 1e-7
    with pytest.raises(AssertionError, match="u"):
        assert_same(unpack(other, meta), state)
