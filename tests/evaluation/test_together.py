"""Rows that begin alike, read in one row, score as they do padded in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from flexlora.evaluation import (
    EvalClient,
    EvalSettings,
    continuation_losses,
    continuing,
    evaluate_each,
    generate,
    together,
)
from flexlora.evaluation.continuing import FROM_TOGETHER, WITH_CACHE, continuing_of
from flexlora.evaluation.together import together_of
from flexlora.models import AdaptedModel, load_model
from flexlora.models.branching import branching
from flexlora.tasks.prompts import Encoded
from models.families import tiny
from models.oracle import random_adapter

PACK = ["llama", "bert", "gpt2", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2", "deepseek_v3"]
PADDED = ["falcon_h1", "gemma2", "rwkv"]
Rows = list[tuple[tuple[int, ...], tuple[int, ...]]]


def ids(count: int, draw: torch.Generator) -> tuple[int, ...]:
    return tuple(torch.randint(5, 900, (count,), generator=draw).tolist())


def some_rows() -> Rows:
    """Of three tasks that begin alike (beyond windows of 16), two prompts each, three choices."""
    draw = torch.Generator().manual_seed(0)
    rows: Rows = []
    for task in (20, 31, 1):
        start = ids(task, draw)
        for extra in (9, 12):
            prompt = (*start, *ids(extra, draw))
            rows += [(prompt, (*ids(n, draw), 2)) for n in (0, 3, 6)]
    return rows


def adapted(name: str) -> AdaptedModel:
    base = load_model("tiny") if name == "tiny" else tiny(name)
    assert base is not None
    return AdaptedModel(base)


@contextmanager
def padded(model: AdaptedModel) -> Iterator[None]:
    """The slow twin: as if the model could not be read together."""
    continuing_of(model)
    before = together._FOUND[model.model], continuing._FOUND[model.model]
    together._FOUND[model.model], continuing._FOUND[model.model] = False, WITH_CACHE
    try:
        yield
    finally:
        together._FOUND[model.model], continuing._FOUND[model.model] = before


@contextmanager
def counted(model: AdaptedModel) -> Iterator[list[int]]:
    """The tokens of each pass."""
    found: list[int] = []
    module: Any = model.model

    def note(_module: Any, given: tuple[Tensor, ...]) -> None:
        found.append(given[0].numel())

    hook = module.get_input_embeddings().register_forward_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


@pytest.mark.parametrize("name", ["tiny", *PACK])
@pytest.mark.parametrize("on_delta", [False, True])
def test_losses_and_texts_are_those_of_padded_rows(name: str, on_delta: bool) -> None:
    model = adapted(name)
    if on_delta:
        adapter = random_adapter(model.layers, 3, seed=1, scale=1.0)
        model.set_delta({layer: x.product() for layer, x in adapter.items()})
    rows = some_rows()
    prompts = [prompt for prompt, _ in rows[::3]]
    assert together_of(model)
    assert continuing_of(model) is FROM_TOGETHER
    found = continuation_losses(model, rows, batch_size=7)
    texts = generate(model, prompts, batch_size=4, max_new_tokens=20)
    with padded(model):
        wanted = continuation_losses(model, rows, batch_size=7)
        assert generate(model, prompts, batch_size=4, max_new_tokens=20) == texts
    for one, other in zip(found, wanted, strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-5)
        assert one.end == pytest.approx(other.end, rel=1e-5, abs=1e-5)
        assert one.tokens == other.tokens


def test_what_rows_begin_with_is_computed_once() -> None:
    model, rows = adapted("tiny"), some_rows()
    assert together_of(model)
    assert continuing_of(model) is FROM_TOGETHER
    with counted(model) as tokens:
        continuation_losses(model, rows, batch_size=len(rows))
    # Of each choice but its last token, of each prompt its last token with each choice.
    rests = sum(len(choice) for _, choice in rows)
    prompts = sum(len(prompt) - 1 for prompt, _ in rows[::3])
    assert tokens == [rests + prompts - 20 - 31]
    with counted(model) as tokens:
        generate(model, [x for x, _ in rows], batch_size=len(rows), max_new_tokens=1)
    assert tokens == [len(rows) + prompts - 20 - 31]


@pytest.mark.parametrize("name", PADDED)
def test_what_cannot_be_read_so_is_padded(name: str) -> None:
    model = adapted(name)
    assert not together_of(model)
    assert continuing_of(model) is not FROM_TOGETHER
    rows = [(prompt[-8:], rest) for prompt, rest in some_rows()[:3]]
    found = continuation_losses(model, rows, batch_size=2)
    for row, loss in zip(rows, found, strict=True):
        (alone,) = continuation_losses(model, [row], batch_size=1)
        assert loss.total == pytest.approx(alone.total, rel=1e-5)


def test_a_model_that_does_it_wrongly_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(paths: Any) -> Any:
        return branching([[] for _ in paths])

    monkeypatch.setattr(together, "branching", forgets)
    model = adapted("tiny")
    assert not together_of(model)
    assert continuing_of(model) is WITH_CACHE


def test_each_client_shares_with_itself_alone() -> None:
    """The examples of all begin alike, and every client has a Δ of its own."""
    model = adapted("tiny")
    each = [some_rows()[:4], some_rows()[:9], some_rows()[2:3]]
    clients = [
        EvalClient(f"c{k}", tuple(Encoded(f"{i}", "x", *row, ("w",)) for i, row in enumerate(rows)))
        for k, rows in enumerate(each)
    ]
    updates = [
        {n: x.product() for n, x in random_adapter(model.layers, r, seed=r, scale=3.0).items()}
        for r in (2, 5, 1)
    ]
    settings = EvalSettings(batch_size=9, max_new_tokens=6, metrics=("loss", "rouge_l"))
    settings = replace(settings, predictions=20)
    found = evaluate_each(model, clients, updates, settings)
    with padded(model):
        wanted = evaluate_each(model, clients, updates, settings)
    assert [p.text for p in found.predictions] == [p.text for p in wanted.predictions]
    means = [client.means["loss"] for client in wanted.clients]
    assert [c.means["loss"] for c in found.clients] == pytest.approx(means, rel=1e-5)
    assert len(set(means)) == 3


@pytest.mark.parametrize("quantise", ["4bit", "8bit"])
def test_a_quantised_base_is_read_so_too(quantise: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes of the extra quant is not installed")
    model, rows = AdaptedModel(load_model("tiny", quantise=quantise)), some_rows()
    assert together_of(model)
    found = continuation_losses(model, rows, batch_size=9)
    with padded(model):
        wanted = continuation_losses(model, rows, batch_size=9)
    totals = [loss.total for loss in wanted]
    assert [loss.total for loss in found] == pytest.approx(totals, rel=1e-3)


def test_the_head_of_padded_rows_is_given_one_piece() -> None:
    """Else torch copies its weight for each row."""
    model, pieces = adapted("tiny"), list[bool]()
    module: Any = model.model
    head = module.get_output_embeddings()
    forward = head.forward

    def noted(x: Tensor) -> Any:
        pieces.append(x.is_contiguous())
        return forward(x)

    with padded(model), patch.object(head, "forward", noted):
        continuation_losses(model, some_rows(), batch_size=5)
    assert len(pieces) == 4
    assert all(pieces)
