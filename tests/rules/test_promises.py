"""A rule that gives what was not asked for is told so, by name, before anybody trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from commands import caller
from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.errors import AdapterError, RuleError
from flexlora.federation import run
from flexlora.lowrank import LowRank
from flexlora.rules import Combined, Layer, State, make_rule
from flexlora.rules.promises import (
    require_begun,
    require_combined,
    require_learned,
    require_readout,
    require_received,
    require_sent,
)
from small import LAYERS, small, spec, write

SPEC, RANKS = spec(2), {layer.name: 2 for layer in LAYERS}
RULE = make_rule("flexlora")
FIRST = LAYERS[0].name


def factors(layer: LayerSpec, rank: int = 2) -> Factors:
    return Factors(torch.zeros(layer.m, rank), torch.ones(rank, layer.n), 1.0)


def adapter(**changes: Any) -> Adapter:
    """A fitting one, but for these layers; None leaves one out."""
    layers = {x.name: factors(x) for x in LAYERS} | changes
    return Adapter({name: given for name, given in layers.items() if given is not None})


def sent(given: Any) -> Adapter:
    return require_sent(RULE, lambda: given, SPEC, RANKS, "north", 3)


def first(given: Any) -> Adapter:
    return adapter(**{FIRST: given})


def unchecked(made: Any, **fields: Any) -> Any:
    """The same with these fields, as where no type checker watches."""
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


class Loose(Adapter):
    """It may hold anything."""

    def __getitem__(self, name: str) -> Any:
        return self._layers[name]


WIDE = LayerSpec(FIRST, 6, 9)
NAN = Factors(torch.full((6, 2), torch.nan), torch.ones(2, 5), 1.0)
ALONE = factors(LAYERS[0]).only("b")
SENT: dict[str, tuple[Any, str]] = {
    "lower rank": (first(factors(LAYERS[0], 1)), "layer x.q_proj has rank 1, expected 2"),
    "higher rank": (first(factors(LAYERS[0], 3)), "layer x.q_proj has rank 3, expected 2"),
    "shape": (first(factors(WIDE)), "layer x.q_proj is 6 × 9, expected 6 × 5"),
    "missing": (first(None), r"layer 'x.q_proj' is missing \(1 layers came, expected 2\)"),
    "strange": (adapter(y=factors(LAYERS[0])), r"layer 'y' is not adapted \(3 layers came"),
    "nan": (first(NAN), "layer x.q_proj holds NaN or infinity, expected finite"),
    "scale": (
        first(Factors(torch.zeros(6, 2), torch.ones(2, 5), float("inf"))),
        "layer x.q_proj holds NaN or infinity",
    ),
    "whole numbers": (
        first(unchecked(factors(LAYERS[0]), b=torch.zeros(6, 2).long())),
        "layer x.q_proj is torch.int64, expected float32",
    ),
    "no factors": (
        unchecked(Loose({}), _layers={**adapter(), FIRST: torch.zeros(6, 2)}),
        "layer x.q_proj is a Tensor, expected Factors",
    ),
    "no adapter": ({}, "a dict came, expected a flexlora.Adapter"),
}


@pytest.mark.parametrize("name", list(SENT))
def test_what_is_sent(name: str) -> None:
    given, words = SENT[name]
    told = r"^send_layer of rule flexlora, for client north in round 3: " + words + ".*; give fact"
    with pytest.raises(RuleError, match=told):
        sent(given)
    assert sent(adapter())
    assert sent(first(ALONE))  # `receive` fills it.


def test_factors_that_are_none_are_the_rules() -> None:
    def send() -> Adapter:
        raise AdapterError("factors need b (m, r) and a (r, n) of one rank; got (6, 2), (3, 5)")

    with pytest.raises(RuleError, match=r"rule flexlora, for client a in round 1: factors need b"):
        require_sent(RULE, send, SPEC, RANKS, "a", 1)


def test_what_is_received_and_read_out() -> None:
    whole, low = adapter(), first(factors(LAYERS[0], 1))
    with pytest.raises(RuleError, match=r"receive of rule flexlora, for client a: .* rank 1, exp"):
        require_received(RULE, low, whole, "a")
    with pytest.raises(RuleError, match=r"layer x\.q_proj has b alone; fill the other side"):
        require_received(RULE, first(ALONE), whole, "a")
    with pytest.raises(RuleError, match=r"readout_layer of rule flexlora: .* rank 1, expected 2"):
        require_readout(RULE, low, SPEC, RANKS)
    learned = {x.name: LowRank.zero(x.m, x.n) for x in LAYERS}
    assert require_learned(RULE, learned, SPEC) is learned
    words = r"learned_layer of rule flexlora, layer x\.q_proj, gives a matrix of 5 × 6, expected 6"
    with pytest.raises(RuleError, match=words):
        require_learned(RULE, {**learned, FIRST: LowRank.zero(5, 6)}, SPEC)


ZERO = {"u": torch.zeros(3)}
COMBINED: dict[str, tuple[Any, str]] = {
    "no Combined": (ZERO, "gives a dict, expected flexlora.rules.Combined"),
    "no mapping": (unchecked(Combined({}), state=[]), "gives a list as its state"),
    "empty": (Combined({}), "gives an empty state"),
    "name": (Combined({"a|b": torch.zeros(1)}), r"names a tensor 'a\|b'"),
    "no tensor": (unchecked(Combined({}), state={"a": 1.0}), "holds a float as 'a', expected a te"),
    "nan": (Combined({"a": torch.tensor([torch.inf])}), "holds NaN or infinity in 'a'"),
    "delta": (Combined(ZERO, frozen=LowRank.zero(6, 5)), r"gives Δ .* traits say delta=\"none\""),
    "step": (Combined(ZERO, step=LowRank.zero(5, 6)), "gives a matrix of 5 × 6, expected 6 × 5"),
}


@pytest.mark.parametrize("name", list(COMBINED))
def test_what_is_combined(name: str) -> None:
    layer: Layer = next(SPEC.at(4))
    given, words = COMBINED[name]
    with pytest.raises(RuleError, match=r"rule flexlora, layer x\.q_proj in round 4, " + words):
        require_combined(RULE, given, layer)
    assert require_combined(RULE, Combined({"n": torch.tensor(3), **ZERO}), layer)
    if isinstance(given, Combined) and name not in ("delta", "step"):
        begun = unchecked(State(SPEC, 0, {}), layers={x.name: given.state for x in LAYERS})
        with pytest.raises(
            RuleError, match=r"first state of rule flexlora, layer x\.q_proj, " + words
        ):
            require_begun(RULE, begun)


OWN = '''
from flexlora.rules.fedit import FedIT


class Mine(FedIT):
    """FedIT, with one thing wrong."""

    name = "mine"
    source = "a test"

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong

    def send_layer(self, layer, state, client):
        right = super().send_layer(layer, state, client)
        return right.cut(1) if self.wrong == "send" and layer.round > 1 else right

    def receive(self, sent, memory):
        if self.wrong != "receive":
            return sent
        return type(sent)({name: f.cut(1) for name, f in sent.items()})

    def readout_layer(self, layer, state, rank):
        right = super().readout_layer(layer, state, rank)
        return right.cut(1) if self.wrong == "readout" else right
'''


def ours(wrong: str) -> Any:
    return small(rule={"name": "my.py:Mine", "wrong": wrong}, federation={"rounds": 2})


def test_a_run_ends_before_the_round_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(OWN)
    words = r"send_layer of rule mine, for client .* in round 2: layer .* has rank 1, expected 2"
    with pytest.raises(RuleError, match=words):
        run(ours("send"), "runs/send")
    with pytest.raises(RuleError, match=r"receive of rule mine, for client .* rank 1, expected"):
        run(ours("receive"), "runs/receive")
    with pytest.raises(RuleError, match=r"readout_layer of rule mine: layer .* has rank 1, expe"):
        run(ours("readout"), "runs/readout")
    config = write(ours("receive"), Path("c.toml"))
    ended = caller(monkeypatch, capsys)("run", config, "--dry-run")
    assert ended.code == 1
    assert "receive of rule mine, for client" in ended.err
