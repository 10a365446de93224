"""The page's table of public figures: what the plan says there is what it says now."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flexlora.allocation.memory import Setting
from flexlora.planning.model import Planned

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "plan_ranks.md"
GIB = 2**30 / 1e9
# Qwen-7B by its sizes: its own code is not in transformers, and a Llama of these has as many
# parameters but for biases.
QWEN = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Public:
    """row: how the page's row begins; says: GB, as published; weights: of the base alone."""

    row: str
    says: float
    model: str
    rank: int
    setting: Setting
    weights: bool = False


def _of(batch: int, length: int, quantise: str = "none", checkpointing: bool = True) -> Setting:
    return Setting(batch, length, quantise=quantise, checkpointing=checkpointing)


SHORT = [
    Public("LLaMA-Factory, 7B, QLoRA in 4", 6.0, "llama-2-7b", 8, _of(1, 512, "4bit")),
    Public("QLoRA, 4-bit base", 5.048, "llama-2-7b", 8, _of(1, 512, "4bit"), weights=True),
]
LONG = [
    Public("LLaMA-Factory, 7B, LoRA", 16.0, "llama-2-7b", 8, _of(1, 512)),
    Public("LLaMA-Factory, 7B, QLoRA in 8", 10.0, "llama-2-7b", 8, _of(1, 512, "8bit")),
    Public("Qwen, 7B, LoRA of rank 64, 256", 20.1, "qwen-7b", 64, _of(1, 256)),
    Public("Qwen, 7B, Q-LoRA of rank 64, 256", 11.5, "qwen-7b", 64, _of(1, 256, "4bit")),
    Public("Qwen, 7B, LoRA of rank 64, 2,048", 23.8, "qwen-7b", 64, _of(1, 2048)),
    Public("Qwen, 7B, Q-LoRA of rank 64, 2,048", 13.9, "qwen-7b", 64, _of(1, 2048, "4bit")),
    Public("torchtune, 8B, LoRA, on a 4090", 16.2 * GIB, "llama-3.1-8b", 8, _of(2, 2048)),
    Public(
        "torchtune, 8B, LoRA, on an A6000",
        *(30.3 * GIB, "llama-3.1-8b", 8),
        _of(2, 2048, checkpointing=False),
    ),
    Public("torchtune, 8B, QLoRA", 7.4 * GIB, "llama-3.1-8b", 8, _of(2, 2048, "4bit")),
]
CASES: list[Any] = [
    *(pytest.param(x, id=x.row) for x in SHORT),
    # Playing a pass of a model that large takes seconds, of thousands of tokens most of a minute.
    *(pytest.param(x, id=x.row, marks=pytest.mark.soak) for x in LONG),
]


@pytest.mark.parametrize("case", CASES)
def test_the_page_says_what_the_plan_says(case: Public, tmp_path: Path) -> None:
    name = case.model
    if name == "qwen-7b":
        (tmp_path / "config.json").write_text(json.dumps(QWEN))
        name = str(tmp_path / "config.json")
    model = Planned(name)
    memory = model.memory({x.name: case.rank for x in model.shape.layers}, case.setting)
    planned = (memory.weights if case.weights else memory.peak) / 1e9
    (row,) = (x for x in PAGE.read_text().splitlines() if x.startswith(f"| {case.row}"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [f"{case.says:.1f}", f"{planned:.1f}", _off(planned / case.says - 1)]


def test_the_page_has_no_other_rows() -> None:
    _, _, table = PAGE.read_text().partition("| public figure ")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    assert len(rows) == len(SHORT) + len(LONG)


def _off(share: float) -> str:
    return f"{share:+.0%}".replace("-", "−").replace("%", " %")
