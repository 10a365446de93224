"""Every client is sent something of its own, and what it changed lands where that came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Factors
from flexlora.federation import Setup, resume, run
from flexlora.federation.observers import Silent
from flexlora.federation.scoring import validate
from flexlora.federation.sending import Sender, Sending
from flexlora.rules import make_rule
from flexlora.runs.events import Event, RoundEnded
from flexlora.runs.run_directory import Run
from reference import Round, generator
from same_run import assert_same_run
from small import LAYERS, small, spec


def test_a_whole_run_sends_to_each_client_and_learns(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendings: list[Sending] = []
    send = Sender.training

    def told(self: Sender, *given: Any) -> Sending:
        sendings.append(send(self, *given))
        return sendings[-1]

    monkeypatch.setattr(Sender, "training", told)
    config = small(rule={"name": "fslora"}, federation={"rounds": 3, "clients_per_round": 4})
    result = run(config, tmp_path / "r", setup=setup)
    for sending in sendings:
        payloads = [job.payload for job in sending.jobs]
        ranks = [setup.roster.types[job.client] for job in sending.jobs]
        assert sorted(ranks) == ["high", "high", "low", "low"]
        # Those of the highest rank are sent all of it, the others each a choice of their own.
        assert len(set(payloads)) >= 2
    low = [[j.payload for j in x.jobs if setup.roster.types[j.client] == "low"] for x in sendings]
    assert any(one != other for one, other in low)
    losses = [record["validation"]["loss"] for record in Run.open(result.folder).read_metrics()]
    bare = validate(setup, {})
    assert bare is not None
    assert min(losses) < bare.mean()["loss"]


class Stops(Silent):
    def told(self, event: Event) -> None:
        if isinstance(event, RoundEnded):
            raise KeyboardInterrupt


def test_a_resume_sends_the_same_again(setup: Setup, tmp_path: Path) -> None:
    config = small(rule={"name": "fslora"})
    whole = run(config, tmp_path / "whole", setup=setup).folder
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "r", setup=setup, observer=Stops())
    resume(tmp_path / "r")
    assert_same_run(tmp_path / "r", whole)


def test_a_change_lands_in_the_columns_that_the_client_was_sent() -> None:
    rule = make_rule("fslora")
    state = rule.init(spec(2, 8), generator())
    ranks = {"a": {x.name: 2 for x in LAYERS}, "b": {x.name: 8 for x in LAYERS}}

    def train(client: str, sent: Adapter) -> Adapter:
        if client == "b":
            return sent
        return type(sent)({n: Factors(f.b + 1.0, f.a, f.scale) for n, f in sent.items()})

    round = Round(rule, state, ranks, train, examples={"a": 1, "b": 3})
    after = round.combined()
    for layer in LAYERS:
        moved = after.layers[layer.name]["b"] - state.layers[layer.name]["b"]
        columns = moved.abs().sum(dim=0).nonzero().flatten().tolist()
        assert len(columns) == 2
        assert torch.allclose(moved[:, columns], torch.full((layer.m, 2), 0.25))
        sent = round.sent["a"][layer.name]
        assert torch.equal(sent.a, state.layers[layer.name]["a"][columns])
