"""Rows whose logits nobody reads are left out where they matter to no other, and only there."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flexlora.models import AdaptedModel, packing
from flexlora.models.carried import Carried
from flexlora.models.lora import LoRALinear
from flexlora.models.packing import packed
from flexlora.models.read_rows import ReadRows
from flexlora.models.rowwise import find_asking, find_rowwise
from flexlora.training.batches import Batch, collate
from models.layers import STACKED
from models.oracle import encoded, random_adapter, random_model
from pairs import pairs

FOUND = {
    "llama": {"self_attn.q_proj", "self_attn.o_proj", "mlp"},
    "gpt2": {"attn.c_proj", "mlp"},
    "neox": {"attention.dense", "mlp"},
    "mistral": {"self_attn.q_proj", "self_attn.o_proj", "mlp"},
    "gemma3": {"self_attn.q_proj", "self_attn.o_proj", "mlp"},
    "opt": {"self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"},
}


def names_of(model: nn.Module, found: list[nn.Module]) -> set[str]:
    named = {id(module): name for name, module in model.named_modules()}
    return {named[id(module)] for module in found}


# --- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FOUND)
def test_found_in_the_last_layer_alone(family: str, adapted: bool) -> None:
    base = random_model(family)
    if adapted:
        AdaptedModel(base)
    names = names_of(base.model, find_rowwise(base.model))
    prefixes = {name[: name.index(".1.") + 3] for name in names}
    assert len(prefixes) == 1  # The second of two layers.
    assert {name.removeprefix(*prefixes) for name in names} == FOUND[family]


class _Mixes(nn.Module):
    """A module after the attention that looks at the token before, however faintly."""

    def __init__(self, inner: nn.Module, share: float) -> None:
        super().__init__()
        self.inner = inner
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y + self.share * torch.roll(y, 1, dims=1)


@pytest.mark.parametrize("share", [1.0, 1e-3])
def test_a_module_that_mixes_tokens_is_left_whole(share: float) -> None:
    base = random_model("llama")
    layer: Any = base.model.get_submodule("model.layers.1")
    layer.mlp = _Mixes(layer.mlp, share)
    assert names_of(base.model, find_rowwise(base.model)) == set()  # Nor what comes before it.


@pytest.mark.parametrize("family", FOUND)
def test_the_last_attention_answers_what_is_read_alone(family: str) -> None:
    base = random_model(family)
    found = names_of(base.model, find_asking(base.model, find_rowwise(base.model)))
    assert {"self_attn", "attn", "attention"} & {name.rpartition(".")[2] for name in found}
    assert all(".1" in name for name in found)  # The second of two layers.


def test_an_attention_all_of_whose_answers_matter_is_left_whole() -> None:
    base = random_model("llama")
    layer: Any = base.model.get_submodule("model.layers.1")
    within = [layer.self_attn.q_proj]
    assert layer.self_attn in find_asking(base.model, within)
    layer.mlp = _Mixes(layer.mlp, 1.0)
    assert layer.self_attn not in find_asking(base.model, within)


class _CountsRows(nn.Module):
    """Tells by its shape alone: no NaN gets from row to row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y * x.shape[1]


def test_a_module_that_counts_its_tokens_is_left_whole() -> None:
    base = random_model("llama")
    layer: Any = base.model.get_submodule("model.layers.1")
    layer.mlp = _CountsRows(layer.mlp)
    names = names_of(base.model, find_rowwise(base.model))
    assert "model.layers.1.mlp" not in names
    assert "model.layers.1.mlp.inner" in names


# --- what is left out ----------------------------------------------------------------------------


def started(ours: AdaptedModel, dropout: float, stacked: bool) -> Carried:
    adapters = [
        random_adapter(ours.layers, rank, seed=rank, dtype=torch.float64) for rank in (2, 3, 1)
    ]
    carried = ours.start(adapters, dropout=dropout, stacked=stacked)
    carried.sow((5, 6, 7))
    return carried


def learnt_logits(ours: AdaptedModel, carried: Carried, batch: Batch, narrow: bool) -> Tensor:
    """(p, vocabulary); the gradients of their squares are left in the trainables."""
    carried.share(batch.shares, batch.own)
    in_one_row = batch.positions is not None
    options = {"position_ids": batch.positions} if in_one_row else {}
    read = ReadRows(batch.read, batch.reads, batch.input_ids.numel())
    with (
        ours.reading(read) if narrow else nullcontext(),
        packed(ours.model, batch.lengths) if in_one_row else nullcontext(),
    ):
        logits = ours(input_ids=batch.input_ids, use_cache=False, **options).logits
        learnt: Tensor = logits.flatten(0, 1)[batch.places]
        (learnt**2).sum().backward()
    return learnt.detach()


@pairs(family=[*FOUND], in_one_row=[False, True], dropout=[0.0, 0.3], stacked=STACKED)
def test_what_is_read_and_learnt_stays_the_same(
    family: str, in_one_row: bool, dropout: float, stacked: bool
) -> None:
    ours = AdaptedModel(random_model(family, torch.float64))
    clients = [encoded(n, seed=n, longest=20) for n in (3, 1, 2)]
    batch = collate(clients, 0, packed=in_one_row, even=stacked)
    found = []
    for narrow in (False, True):
        carried = started(ours, dropout, stacked)
        logits = learnt_logits(ours, carried, batch, narrow)
        found.append((logits, [x.gradient.clone() for x in carried.trainables]))
    (whole, wanted), (few, got) = found
    assert torch.allclose(few, whole, rtol=1e-11, atol=1e-12)
    for one, two in zip(wanted, got, strict=True):
        assert one.abs().max() > 1e-3
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-12 * float(one.abs().max()))


def test_no_more_rows_than_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = AdaptedModel(random_model("llama", torch.float64))
    batch = collate([encoded(2, seed=k, longest=30) for k in range(3)], 0, packed=True)
    rows: dict[str, int] = {}
    for name, module in ours.model.named_modules():
        if isinstance(module, LoRALinear):
            base = module.base
            base.forward = _counting(base.forward, rows, name)
            module._plain = lambda: None  # type: ignore[method-assign]
    assert ours._asking  # Found now, not below.
    asked: list[int] = []
    causal = packing._causal

    def attended(query: Tensor, *given: Any, **named: Any) -> Tensor:
        asked.append(query.shape[2])
        return causal(query, *given, **named)

    monkeypatch.setattr(packing, "_causal", attended)
    learnt_logits(ours, started(ours, 0.0, stacked=False), batch, narrow=True)
    learnt, total = sum(batch.learnt), batch.input_ids.numel()
    sequences = len(batch.lengths)
    assert sum(asked[:sequences]) == total
    assert sum(asked[sequences:]) == learnt
    assert learnt < 0.75 * total
    last = {name: n for name, n in rows.items() if ".1." in name}
    assert {name.rpartition(".")[2] for name, n in last.items() if n == learnt} == {
        "q_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert {n for name, n in rows.items() if name not in last} == {total}
    assert {n for name, n in last.items() if n != learnt} == {total}  # Keys and values.


def _counting(forward: Any, rows: dict[str, int], name: str) -> Any:
    def counted(x: Tensor) -> Tensor:
        rows[name] = x.shape[0]
        return forward(x)

    return counted


def test_nothing_is_left_on_the_model_even_after_an_error() -> None:
    ours = AdaptedModel(random_model("llama", torch.float64))
    carried = started(ours, 0.0, stacked=False)
    ids = torch.arange(3, 12).view(3, 3)
    before = ours(input_ids=ids).logits
    read = ReadRows(torch.tensor([2, 5, 8]), (1, 1, 1), 9)
    with ours.reading(read):
        assert not torch.allclose(ours(input_ids=ids).logits[:, 0], before[:, 0])
    carried.rows = _fails  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not 9"), ours.reading(read):
        ours(input_ids=ids)
    del carried.rows
    assert carried.read is None
    assert torch.equal(ours(input_ids=ids).logits, before)


def _fails(*_: Any, **__: Any) -> Any:
    raise ValueError("not 9")


def test_where_most_rows_are_read_all_are_computed() -> None:
    ours = AdaptedModel(random_model("llama", torch.float64))
    started(ours, 0.0, stacked=False)
    ids = torch.arange(3, 12).view(3, 3)
    before = ours(input_ids=ids).logits
    with ours.reading(ReadRows(torch.arange(9)[1:], (2, 3, 3), 9)):
        assert torch.equal(ours(input_ids=ids).logits, before)
