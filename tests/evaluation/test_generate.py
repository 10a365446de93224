from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from flexlora.errors import DataError, ModelError
from flexlora.evaluation import generate
from flexlora.evaluation.asked import Asked, Way
from flexlora.evaluation.continuing import (
    _WAYS,
    WITH_CACHE,
    WITHOUT_CACHE,
    continuing_of,
    own,
)

VOCABULARY, EOS = 40, 2


class Letters:
    """Decodes ids to words; 0, 1 and 2 are special."""

    pad_token_id, eos_token_id = None, EOS

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " " + " ".join(f"w{i}" for i in ids if i > 2) + " "


@pytest.fixture(scope="module")
def tiny() -> SimpleNamespace:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,  # wide: the argmax is never near a tie, and texts vary
        eos_token_id=EOS,
    )
    model = LlamaForCausalLM(config).eval()
    return SimpleNamespace(model=model, tokenizer=Letters(), context=64)


def some_prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 30, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def slow_twin(model: LlamaForCausalLM, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
    """`model.generate`, one prompt at a time."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=EOS, pad_token_id=0
    )
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    new = out[0, len(prompt) :].tolist()
    return new[: new.index(EOS)] if EOS in new else new


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_it_says_what_generate_says_whatever_the_batch(
    tiny: SimpleNamespace, batch_size: int
) -> None:
    prompts = some_prompts(40)
    expected = [slow_twin(tiny.model, prompt, 20) for prompt in prompts]
    assert {len(ids) for ids in expected} > {20}  # some end by EOS, some by the limit
    found = generate(tiny, prompts, batch_size=batch_size, max_new_tokens=20)
    assert list(found) == [
        tiny.tokenizer.decode(e, skip_special_tokens=True).strip() for e in expected
    ]


def test_the_context_limits_each_row_alone(tiny: SimpleNamespace) -> None:
    small = SimpleNamespace(model=tiny.model, tokenizer=tiny.tokenizer, context=32)
    prompts = some_prompts(30)
    found = generate(small, prompts, batch_size=30, max_new_tokens=16)
    for prompt, text in zip(prompts, found, strict=True):
        ids = slow_twin(tiny.model, prompt, min(16, 32 - len(prompt)))
        assert text == tiny.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("length", [0, 64, 70])
def test_prompts_without_room_are_refused(tiny: SimpleNamespace, length: int) -> None:
    with pytest.raises(DataError, match=f"prompt 1 has {length} tokens.* context is 64"):
        generate(tiny, [[5], [5] * length], batch_size=2, max_new_tokens=4)


def test_nothing_to_do(tiny: SimpleNamespace) -> None:
    assert generate(tiny, [], batch_size=4, max_new_tokens=4) == ()


def test_what_else_ends_a_turn_ends_a_text(tiny: SimpleNamespace) -> None:
    prompts = some_prompts(12)
    texts = [slow_twin(tiny.model, prompt, 12) for prompt in prompts]
    # Each row's own: what ends one is a word of the others.
    ends = [set(ids[k % 4 : k % 4 + 1]) for k, ids in enumerate(texts)]
    expected = [
        ids[: next((i for i, x in enumerate(ids) if x in own), len(ids))]
        for ids, own in zip(texts, ends, strict=True)
    ]
    assert expected != texts
    found = generate(tiny, prompts, batch_size=5, max_new_tokens=12, ends=ends)
    assert list(found) == [
        tiny.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]


def test_a_row_of_limit_zero_stays_empty(tiny: SimpleNamespace) -> None:
    with torch.no_grad():
        found = own(tiny, Asked([[5, 6], [7]], [0, 3], [{EOS}] * 2), cached=True)
    assert found == [[], slow_twin(tiny.model, [7], 3)]


def test_the_training_mode_comes_back_and_nothing_warns(tiny: SimpleNamespace) -> None:
    tiny.model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(tiny, [[5]], batch_size=4, max_new_tokens=4)
    assert tiny.model.training
    tiny.model.eval()


@pytest.mark.parametrize("name", ["ni-llama-6m", "stories260K"])
def test_real_models(shared: Path, name: str) -> None:
    folder = shared / "models" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    evaluated = SimpleNamespace(model=model, tokenizer=tokenizer, context=512)
    texts = ["One day, a little", "The", "She was happy, and then the dog said to his friend"]
    prompts = tokenizer(texts)["input_ids"]
    together = generate(evaluated, prompts, batch_size=3, max_new_tokens=12)
    alone = [slow_twin(model.eval(), prompt, 12) for prompt in prompts]
    assert list(together) == [
        tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in alone
    ]
    assert all(together)


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("kinds", [[()], [{EOS}], [{EOS, 7}, {EOS}, ()]])
def test_each_way_says_the_same_and_stops_alike(
    tiny: SimpleNamespace, way: Way, kinds: list[Collection[int]]
) -> None:
    """And whatever the model's own settings ask for besides."""
    tiny.model.generation_config.repetition_penalty = 5.0
    tiny.model.generation_config.min_new_tokens = 4
    rows = some_prompts(9)
    limits = [0, 1, 4, 4, 9, 9, 9, 2, 12]
    stops = [kinds[i % len(kinds)] for i in range(9)]
    with torch.no_grad():
        found = way(tiny, Asked(rows, limits, stops))
        plain = [
            WITHOUT_CACHE(tiny, Asked([r], [n], [own]))[0]
            for r, n, own in zip(rows, limits, stops, strict=True)
        ]
    assert found == plain
    assert tiny.model.generation_config.repetition_penalty == 5.0
    assert any(stops) or list(map(len, found)) == limits
    tiny.model.generation_config = GenerationConfig(eos_token_id=EOS)


def test_a_way_that_is_wrong_or_fails_is_passed_over(tiny: SimpleNamespace) -> None:
    from flexlora.evaluation import continuing

    def forgets(model: Any, asked: Asked) -> list[list[int]]:
        """Sees the last token alone."""
        return WITH_CACHE(model, replace(asked, rows=[row[-1:] for row in asked.rows]))

    def fails(_model: Any, _asked: Asked) -> list[list[int]]:
        raise AttributeError("batch_select_indices")

    copy = SimpleNamespace(
        model=LlamaForCausalLM(tiny.model.config), tokenizer=Letters(), context=64
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuing, "_WAYS", (forgets, fails))
        with pytest.raises(ModelError, match="LlamaForCausalLM cannot continue a text"):
            continuing_of(copy)
        patch.setattr(continuing, "_WAYS", (forgets, fails, WITHOUT_CACHE))
        assert continuing_of(copy) is WITHOUT_CACHE
    assert continuing_of(copy) is WITHOUT_CACHE  # It is known now.
