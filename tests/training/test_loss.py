"""The loss of learnt places alone, a part at a time, against transformers' own over all logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flexlora.models import AdaptedModel
from flexlora.training import collate, loss
from flexlora.training.loss import ResponseLoss
from models.oracle import FAMILIES, VOCABULARY, encoded, plain_loss, random_adapter, random_model
from reference import there

CLIENTS = (encoded(3, seed=1), encoded(1, seed=2), encoded(4, seed=3))


def check(
    model: nn.Module, clients: Sequence[Sequence[Any]] = CLIENTS, loss_on: str = "response"
) -> ResponseLoss:
    """Each client's loss is transformers' own."""
    with ResponseLoss(model).active() as losses_of, torch.no_grad():
        found = losses_of(collate(clients, 0, loss_on=loss_on))
        again = losses_of(collate(clients, 0, loss_on=loss_on))
    wanted = [plain_loss(model, client, loss_on=loss_on) for client in clients]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-5)
    assert torch.equal(found, again)
    return losses_of


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss_on", ["response", "all"])
@pytest.mark.parametrize("logits", [1, 5 * VOCABULARY, 1 << 24])
def test_losses_and_gradients_equal_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, family: str, loss_on: str, logits: int
) -> None:
    """However many logits are held at once."""
    monkeypatch.setattr(loss, "_LOGITS", logits)
    ours = AdaptedModel(random_model(family, torch.float64))
    adapters = [random_adapter(ours.layers, 2, seed=k, dtype=torch.float64) for k in range(3)]
    carried = ours.start(adapters)
    batch = collate(CLIENTS, 0, loss_on=loss_on)
    carried.share(batch.shares)
    with ResponseLoss(ours.model).active() as losses_of:
        losses = losses_of(batch)
        losses.sum().backward()
    for k, client in enumerate(CLIENTS):
        (alone,) = ours.start([adapters[k]]).trainables
        wanted = plain_loss(ours, client, loss_on=loss_on)
        wanted.backward()
        # transformers takes its softmax in float32.
        assert torch.allclose(losses[k], wanted.to(losses.dtype), atol=1e-6)
        assert torch.allclose(carried.trainables[k].gradient, alone.gradient, atol=1e-6)
        assert float(alone.gradient.norm()) > 1e-2
    assert losses.dtype == torch.float64
    assert ours(input_ids=batch.input_ids[:1]).logits.shape[:2] == batch.input_ids[:1].shape


def test_weighted_losses_have_weighted_gradients() -> None:
    ours = AdaptedModel(random_model("llama", torch.float64))
    adapter = random_adapter(ours.layers, 2, dtype=torch.float64)
    found = []
    for weights in ((1.0, 1.0), (4.0, 0.0)):
        carried = ours.start([adapter] * 2)
        batch = collate(CLIENTS[:2], 0)
        carried.share(batch.shares)
        with ResponseLoss(ours.model).active() as losses_of:
            (losses_of(batch) * torch.tensor(weights)).sum().backward()
        found.append([trainable.gradient for trainable in carried.trainables])
    assert torch.allclose(4.0 * found[0][0], found[1][0], atol=1e-12)
    assert not found[1][1].any()
    assert found[0][1].any()


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_the_logits_are_never_held_all_at_once(
    monkeypatch: pytest.MonkeyPatch, loss_on: str
) -> None:
    model: Any = random_model("llama").model
    monkeypatch.setattr(loss, "_LOGITS", 4 * VOCABULARY + 1)
    rows: list[int] = []

    def count(_head: nn.Module, _args: Any, out: Tensor) -> None:
        rows.append(out.numel() // out.shape[-1])

    model.get_output_embeddings().register_forward_hook(count)
    batch = collate(CLIENTS, 0, loss_on=loss_on)
    with ResponseLoss(model).active() as losses_of:
        losses_of(batch)
    places = len(batch.places)
    assert max(rows) == 4
    assert sum(rows) <= places + 2  # One place more, twice, to see whether the head comes last.
    assert places > 20


@pytest.mark.parametrize("cap", [0.5, 30.0, None])
def test_what_a_model_does_to_its_logits_is_kept(cap: float | None) -> None:
    found = check(random_model("gemma2", final_logit_softcapping=cap).model)
    assert found._last == (cap is None)


def test_a_capped_model_has_its_gradients() -> None:
    ours = AdaptedModel(random_model("gemma2", torch.float64))
    adapter = random_adapter(ours.layers, 2, dtype=torch.float64)
    (trainable,) = ours.start([adapter]).trainables
    with ResponseLoss(ours.model).active() as losses_of:
        losses_of(collate(CLIENTS[1:2], 0)).sum().backward()
    found = trainable.gradient.clone()
    trainable.gradient.zero_()
    plain_loss(ours, CLIENTS[1]).backward()
    assert torch.allclose(found, trainable.gradient, atol=1e-7)
    assert float(found.norm()) > 1e-3


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_client_of_nan_changes_no_other_nor_the_way(family: str, bad: int) -> None:
    ours = AdaptedModel(random_model(family, torch.float64))
    adapters = [random_adapter(ours.layers, 2, seed=k, dtype=torch.float64) for k in range(2)]
    found = []
    for spoilt in (False, True):
        carried = ours.start(adapters)
        if spoilt:
            carried.trainables[bad].vector.data.fill_(float("nan"))
        batch = collate(CLIENTS[:2], 0)
        carried.share(batch.shares)
        with ResponseLoss(ours.model).active() as losses_of:
            losses = losses_of(batch)
            losses.sum().backward()
        assert losses_of._last == (family == "llama")
        found.append((losses[1 - bad], carried.trainables[1 - bad].gradient))
    assert losses[bad].isnan()
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_an_adapted_head_computes_all_logits() -> None:
    ours = AdaptedModel(random_model("llama", torch.float64), ("lm_head", "q_proj"))
    adapters = [random_adapter(ours.layers, 2, seed=k, dtype=torch.float64) for k in range(3)]
    carried = ours.start(adapters)
    batch = collate(CLIENTS, 0)
    carried.share(batch.shares)
    with ResponseLoss(ours.model).active() as losses_of:
        losses = losses_of(batch)
        losses.sum().backward()
    for k, client in enumerate(CLIENTS):
        (alone,) = ours.start([adapters[k]]).trainables
        wanted = plain_loss(ours, client)
        wanted.backward()
        assert torch.allclose(losses[k], wanted.double(), atol=1e-6)
        mine = carried.trainables[k]
        assert torch.allclose(mine.gradient, alone.gradient, atol=1e-6)
        assert there(mine.pairs["lm_head"].grad_a).any()


class Headless(nn.Module):
    """A model that names no output head."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> object:
        return self.inner(**inputs)


@pytest.mark.parametrize("clients", [CLIENTS, CLIENTS[1:2]])
def test_a_model_without_a_known_head_computes_all_logits(
    clients: Sequence[Sequence[Any]],
) -> None:
    check(Headless(random_model("llama").model), clients)
