"""Many clients in one pass score as each does alone, with its update in Δ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from flexlora.errors import AdapterError, DataError
from flexlora.evaluation import EvalClient, EvalSettings, Metric, Scores, evaluate, evaluate_each
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel, load_model
from flexlora.tasks.prompts import Encoded
from models.oracle import FAMILIES, VOCABULARY, random_adapter, random_model

Update = dict[str, LowRank]

RANKS = (2, 0, 5, 1, 3)
SIZES = (3, 1, 6, 2, 4)
SETTINGS = EvalSettings(
    batch_size=4, max_new_tokens=6, metrics=("loss", "rouge_l", "choice"), predictions=100
)


class Words:
    pad_token_id, eos_token_id = 0, 2

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return " ".join(f"w{i}" for i in ids)


def adapted(family: str) -> AdaptedModel:
    if family == "tiny":
        return AdaptedModel(load_model("tiny"))
    base = random_model(family)
    # With the output head, which sees the last tokens alone.
    targets = ("all-linear", "lm_head") if family == "neox" else ("all-linear",)
    return AdaptedModel(replace(base, tokenizer=Words()), targets)


def some_clients() -> list[EvalClient]:
    """Several hold the same example: what it scores depends on whose it is."""
    draw = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=draw))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=draw).tolist())

    shared = Encoded("s", "x", (5, 6, 7), (8, 2), ("w8",), choices=((8, 2), (9, 2)), answer=0)
    clients = []
    for k, size in enumerate(SIZES):
        examples = [shared]
        for i in range(size - 1):
            right = (*ids(1, 5), 2)
            choices = (right, (*ids(1, 5), 2))
            examples.append(
                Encoded(f"e{i}", "x", ids(1, 20), right, ("w3 w4",), choices=choices, answer=0)
            )
        clients.append(EvalClient(f"c{k}", tuple(examples)))
    return clients


def some_updates(model: AdaptedModel, *, scale: float = 3.0) -> list[Update]:
    adapters = [
        random_adapter(model.layers, rank, seed=k, scale=scale) for k, rank in enumerate(RANKS)
    ]
    return [{name: f.product() for name, f in adapter.items()} for adapter in adapters]


def alone(
    model: AdaptedModel,
    delta: Update,
    clients: Sequence[EvalClient],
    updates: Sequence[Update],
    settings: EvalSettings = SETTINGS,
) -> list[Scores]:
    """The slow twin: one client after another, its update merged into the weights."""
    found = []
    for client, update in zip(clients, updates, strict=True):
        model.set_delta({x: delta[x] + p if x in delta else p for x, p in update.items()})
        found.append(evaluate(model, [client], settings))
    return found


def assert_same(found: Scores, wanted: Sequence[Scores]) -> None:
    for score, one in zip(found.clients, wanted, strict=True):
        (other,) = one.clients
        assert (score.client, score.examples) == (other.client, other.examples)
        assert score["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert score["choice"] == other["choice"]
        texts = [p.text for p in found.predictions if p.client == score.client]
        assert texts == [p.text for p in one.predictions]


@pytest.mark.parametrize("stacked", [False, True], ids=["loop", "batched"])
@pytest.mark.parametrize("family", [*FAMILIES, "tiny"])
def test_each_scores_as_if_alone(
    family: str, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clients = adapted(family), some_clients()
    updates = some_updates(model)
    delta = {
        name: part.scaled(0.5)
        for name, part in some_updates(model)[0].items()
        if not name.endswith("v_proj")
    }
    wanted = alone(model, delta, clients, updates)
    losses = [one.clients[0]["loss"] for one in wanted]
    assert max(losses) - min(losses) > 0.1
    monkeypatch.setattr(model, "start", partial(model.start, stacked=stacked))
    model.set_delta(delta)
    assert_same(evaluate_each(model, clients, updates, SETTINGS), wanted)
    # Whoever is beside it, and however rows share batches.
    for places, size in (([2], 4), ([4, 0, 2], 1), ([3, 1, 2, 0], 50)):
        found = evaluate_each(
            model,
            [clients[k] for k in places],
            [updates[k] for k in places],
            replace(SETTINGS, batch_size=size),
        )
        assert_same(found, [wanted[k] for k in places])


def test_an_update_may_be_a_difference() -> None:
    """As of rules with an origin: trained − sent, of twice the rank."""
    model, clients = adapted("llama"), some_clients()
    updates = [
        {name: part - sent[name] for name, part in trained.items()}
        for trained, sent in zip(
            some_updates(model), reversed(some_updates(model, scale=2.0)), strict=True
        )
    ]
    wanted = alone(model, {}, clients, updates)
    model.set_delta({})
    assert_same(evaluate_each(model, clients, updates, SETTINGS), wanted)


def broken(_example: Encoded, _text: object) -> float:
    raise ZeroDivisionError("nothing there")


def test_the_model_is_left_as_it_was_whatever_happens() -> None:
    model, clients = adapted("llama"), some_clients()
    updates = some_updates(model)
    settings = replace(SETTINGS, metrics=("loss",))
    delta = some_updates(model)[2]
    model.set_delta(delta)
    plain = evaluate(model, clients, settings)
    evaluate_each(model, clients, updates, settings)
    assert evaluate(model, clients, settings) == plain
    wrong = replace(settings, metrics=(Metric("wrong", "text", True, broken),))
    with pytest.raises(DataError, match="'wrong', client 'c0', example 's': it fails with ZeroDiv"):
        evaluate_each(model, clients, updates, wrong)
    assert evaluate(model, clients, settings) == plain


def test_refusals() -> None:
    model, clients = adapted("llama"), some_clients()
    updates = some_updates(model)
    with pytest.raises(ValueError, match="updates are 4 for 5 clients"):
        evaluate_each(model, clients, updates[1:], SETTINGS)
    name = model.layers[0].name
    lacking = {x: part for x, part in updates[1].items() if x != name}
    with pytest.raises(AdapterError, match=f"adapter 1 lacks layer {name}"):
        evaluate_each(model, clients, [updates[0], lacking, *updates[2:]], SETTINGS)
    with pytest.raises(DataError, match="client 'c0' has no examples"):
        evaluate_each(model, [EvalClient("c0", ())], updates[:1], SETTINGS)


def test_a_client_that_is_not_finite_spoils_no_other_ones_texts() -> None:
    model, clients = adapted("llama"), some_clients()
    updates = some_updates(model)
    good = evaluate_each(model, clients, updates, SETTINGS)
    updates[2] = {
        name: LowRank(part.left * torch.nan, part.right) for name, part in updates[2].items()
    }
    spoilt = evaluate_each(model, clients, updates, SETTINGS)

    def of_others(scores: Scores) -> list[str]:
        return [x.text for x in scores.predictions if x.client != "c2"]

    assert of_others(spoilt) == of_others(good)
    for one, other in zip(spoilt.clients, good.clients, strict=True):
        assert one.client == "c2" or one.values == pytest.approx(other.values, rel=1e-4)
