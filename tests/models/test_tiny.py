"""The committed base model: small, whole, and able to read every embedded task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import flexlora
from flexlora.tasks.embedded import FAMILIES, embedded_tasks

FOLDER = Path(flexlora.__file__).parent / "models" / "tiny"
PROMPT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_folder_is_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.is_file()}
    wanted = ["config", "generation_config", "tokenizer", "tokenizer_config"]
    assert {f"{name}.json" for name in wanted} | {"model.safetensors", "README.md"} == set(files)
    assert sum(files.values()) <= 4_000_000


def test_model_is_as_documented(model: Any) -> None:
    config = model.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 4, 128)
    assert config.tie_word_embeddings
    assert len(TOKENIZER) == config.vocab_size
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)
    assert model.generation_config.eos_token_id == 2
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_reads_its_own_text_better_than_chance(model: Any) -> None:
    ids = TOKENIZER("Monday, Tuesday, Wednesday, Thursday.", return_tensors="pt")["input_ids"]
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        plain, mixed = (model(input_ids=x, labels=x).loss.item() for x in (ids, shuffled))
    assert plain < mixed


def test_greedy_generation_is_repeatable_and_padding_is_masked(model: Any) -> None:
    tasks = embedded_tasks(["list_pick"], 1, 0)
    prompts = [
        PROMPT.format(instruction=t.examples[0].instruction, input=t.examples[0].input)
        for t in tasks
    ]
    batch = TOKENIZER(prompts, padding=True, padding_side="left", return_tensors="pt")
    start = batch["input_ids"].shape[1]
    together = model.generate(**batch, max_new_tokens=6)[:, start:]
    assert torch.equal(together, model.generate(**batch, max_new_tokens=6)[:, start:])
    for row, prompt in zip(together, prompts, strict=True):
        one = TOKENIZER(prompt, return_tensors="pt")
        alone = model.generate(**one, max_new_tokens=6)[0, one["input_ids"].shape[1] :]
        assert TOKENIZER.decode(alone, skip_special_tokens=True) == TOKENIZER.decode(
            row, skip_special_tokens=True
        )


@settings(deadline=None, max_examples=100, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_tokenizer_gives_any_text_back(text: str) -> None:
    # Written special tokens are read as such, so they are the one exception.
    if any(mark in text for mark in ("<pad>", "<s>", "</s>")):
        return
    ids = TOKENIZER(text)["input_ids"]
    assert not {0, 1, 2} & set(ids)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER(text, add_special_tokens=False)["input_ids"] == ids


def test_digits_are_tokens_of_their_own() -> None:
    assert TOKENIZER.tokenize("2048") == ["2", "0", "4", "8"]


def test_prompts_fit_the_context(model: Any) -> None:
    lengths = sorted(
        len(
            TOKENIZER(
                PROMPT.format(instruction=example.instruction, input=example.input)
                + example.references[0]
            )["input_ids"]
        )
        + 1
        for task in embedded_tasks(tuple(FAMILIES), 20, 0)
        for example in task.examples
    )
    assert lengths[-1] <= model.config.max_position_embeddings // 2
    assert lengths[len(lengths) // 2] <= 100
