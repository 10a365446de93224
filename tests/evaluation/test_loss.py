from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from flexlora.evaluation import response_losses
from flexlora.tasks.prompts import Encoded

TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=2)


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    """Absolute positions: wrong position ids under padding would show."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    )


def some_examples(count: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=generator))
        return tuple(torch.randint(3, 50, (length,), generator=generator).tolist())

    return [Encoded(str(i), "x", ids(1, 25), (*ids(0, 12), 2), ("x",)) for i in range(count)]


def slow_twin(model: PreTrainedModel, example: Encoded) -> float:
    """Hugging Face's own loss of one example, unpadded, prompt masked out."""
    ids = torch.tensor([example.prompt + example.response])
    labels = ids.clone()
    labels[:, : len(example.prompt)] = -100
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss) * len(example.response)


class WithoutKeep(torch.nn.Module):
    """A model whose forward can make all logits only."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.inner.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        return self.inner(input_ids, attention_mask=attention_mask, position_ids=position_ids)


@pytest.mark.parametrize("build", [llama, gpt2, lambda: WithoutKeep(llama())])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_it_is_the_loss_of_one_at_a_time(
    build: Callable[[], torch.nn.Module], batch_size: int
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    evaluated = SimpleNamespace(model=model, tokenizer=TOKENIZER, context=64)
    examples = some_examples(17)
    found = response_losses(evaluated, examples, batch_size=batch_size)
    twin = getattr(model, "inner", model)
    for loss, example in zip(found, examples, strict=True):
        assert loss.tokens == len(example.response)
        assert loss.total == pytest.approx(slow_twin(twin, example), rel=1e-5)


def test_dropout_is_off_and_training_mode_comes_back() -> None:
    torch.manual_seed(0)
    model = gpt2().train()
    evaluated = SimpleNamespace(model=model, tokenizer=TOKENIZER, context=64)
    examples = some_examples(3)
    first, second = (response_losses(evaluated, examples, batch_size=3) for _ in range(2))
    assert first == second
    assert model.training
