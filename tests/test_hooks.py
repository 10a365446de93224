"""What a rule's own lines do wrong is told by rule, method, layer and line, and ends the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, Delta, Factors, LayerSpec
from flexlora.errors import RuleError
from flexlora.lowrank import LowRank
from flexlora.rules import Combined, Encoded, LayerState, Memory, Spec, State, Traits
from flexlora.rules.flexlora import FlexLoRA
from flexlora.rules.layer import Layer

SPEC = Spec.of([LayerSpec("x", 6, 5), LayerSpec("y", 4, 7)], [{"x": 2, "y": 2}], 4.0)
RANKS = {"x": 2, "y": 2}


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Mine(FlexLoRA):  # type: ignore[misc]
    name = "mine"
    wrong = ""

    def send_layer(self, layer: Layer, state: LayerState, client: Any) -> Factors:
        if self.wrong == "raise" and layer.name == "y":
            raise KeyError("b")
        if self.wrong == "state":
            next(iter(state.values())).view(-1)[:1].add_(1.0)  # A view is it, too.
        if self.wrong == "words":
            raise RuntimeError("no memory of this client was allocated")
        if self.wrong == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().send_layer(layer, state, client)

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        if self.wrong == "sent":
            sent["y"].b.mul_(0.5)
        return sent

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        if self.wrong == "adapter":
            return trained  # type: ignore[return-value]
        return Encoded(trained, {"m": torch.ones(2)} if self.wrong == "remembers" else {})


def played(wrong: str) -> Encoded:
    rule = Mine()
    vars(rule)["wrong"] = wrong
    sent = rule.send(rule.init(SPEC, draws()), RANKS, draws())
    return rule.reply(1, rule.receive(sent, {}), sent, {})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("raise", r"send_layer of rule mine, layer y: KeyError: 'b' \(test_hooks\.py, line \d+\)"),
        ("state", r"send_layer of rule mine, layer x changes in place what it is given as state"),
        ("words", r"send_layer of rule mine, layer x: RuntimeError: no memory of this client"),
        ("sent", r"receive of rule mine changes in place what it is given as sent"),
        ("adapter", r"encode of rule mine gives no flexlora\.rules\.Encoded"),
        ("remembers", r"encode of rule mine gives a memory, but its traits say memory=False"),
    ],
)
def test_a_slip_is_told_by_rule_method_layer_and_line(wrong: str, said: str) -> None:
    played("")
    with pytest.raises(RuleError, match=said):
        played(wrong)


def test_a_lack_of_memory_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        played("memory")


def test_a_method_of_every_rule_is_not_to_be_replaced() -> None:
    words = r"rule flexlora has a 'weights' of its own, .* give it another name"
    with pytest.raises(RuleError, match=words):
        type("Weighty", (FlexLoRA,), {"weights": 3.0})


@dataclass(frozen=True, slots=True)
class Slotted(FlexLoRA):  # type: ignore[misc]
    share: float = 0.25
    weighing: str = "by hand"  # A name of its own.


def test_a_rule_with_slots_is_weighed_as_it_is() -> None:
    made = Slotted(share=0.5).weighed("uniform")
    assert isinstance(made, Slotted)
    assert (made.share, made.weighing) == (0.5, "by hand")
    assert made._weighing == "uniform"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"delta": "orign"}, "delta is \"orign\"; did you mean 'origin'"),
        ({"needs": "sums"}, "needs is \"sums\"; did you mean 'sum'"),
        ({"compares": "factor"}, "did you mean 'factors'"),
        ({"exact": 1}, "exact is 1, expected true or false"),
    ],
)
def test_a_word_that_no_trait_has_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(RuleError, match=said):
        Traits(**words)


def test_a_layer_without_a_new_delta_keeps_its_own() -> None:
    """By patches too: who holds the version before comes to the same."""
    held = {"x": LowRank(torch.ones(6, 1), torch.ones(1, 5)), "y": LowRank.zero(4, 7)}
    begun = FlexLoRA().init(SPEC, draws())
    before = replace(begun, delta=Delta(1, held))
    step = LowRank(torch.ones(4, 1), torch.ones(1, 7))
    combined = {
        "x": Combined(begun.layers["x"]),
        "y": Combined(begun.layers["y"], frozen=held["y"] + step, step=step),
    }
    after: State = before.after(combined)
    assert torch.equal(after.delta.layers["x"].dense(), held["x"].dense())
    assert torch.equal(after.delta.layers["y"].dense(), torch.ones(4, 7))
    update = after.delta.since(1)
    assert update is not None
    mine = before.delta.updated(update)
    for name, matrix in after.delta.layers.items():
        assert torch.equal(mine.layers[name].dense(), matrix.dense())


class Reading(FlexLoRA):  # type: ignore[misc]
    name = "reading"

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        memory["gone"]  # What is read when it is asked for.
        return sent


class OnDisk(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        return Path("/nowhere/at/all").read_bytes()


def test_a_disk_that_fails_stays_what_it_is() -> None:
    sent = Mine().send(Mine().init(SPEC, draws()), RANKS, draws())
    with pytest.raises(OSError, match="nowhere"):
        Reading().receive(sent, OnDisk())
