"""Models by config alone: well-known ones have their sizes, broken ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexlora.errors import ModelError
from flexlora.models.outlined import config_alone, well_known
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline

# Parameters as the models' pages state them, or as their weights' headers add up to.
PARAMETERS = {
    "gemma-2-2b": 2_614_341_888,
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "phi-3-mini": 3_821_079_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-135m": 134_515_008,
    "tinyllama-1.1b": 1_100_048_384,
}


def test_every_well_known_model_is_held_to_its_parameters() -> None:
    assert set(well_known()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_well_known_model_has_as_many_parameters_as_its_weights(name: str) -> None:
    config = config_alone(name)
    assert shape_of(outline(config, name, None), name).parameters == PARAMETERS[name]


WHOLE = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def test_a_config_file_and_a_folder_with_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WHOLE))
    for name in (str(tmp_path), str(tmp_path / "config.json")):
        assert config_alone(name).hidden_size == 32
    assert config_alone("tiny").hidden_size == 128


REFUSED = [
    ("[]", "is not a JSON table"),
    ("{", "is not readable JSON"),
    ("{}", "has no model_type"),
    (json.dumps({**WHOLE, "model_type": "lama"}), "has model_type 'lama'"),
    (json.dumps({**WHOLE, "model_type": "t5"}), "not a causal language model"),
    (json.dumps({k: v for k, v in WHOLE.items() if k != "hidden_size"}), "lacks hidden_size"),
    (json.dumps({**WHOLE, "vocab_size": "many"}), "lacks vocab_size as a whole number"),
    (json.dumps({**WHOLE, "num_hidden_layers": -2}), "lacks num_hidden_layers"),
    (json.dumps({"model_type": "gpt2", "n_embd": 32}), "lacks vocab_size, n_layer, n_head"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_a_config_without_what_is_needed_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError) as raised:
        config_alone(str(tmp_path))
    assert words in str(raised.value)


def test_a_model_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"did you mean 'llama-3.1-8b'\?"):
        config_alone("llama-3-8b")
    with pytest.raises(ModelError, match="no such file"):
        config_alone(str(tmp_path / "none"))
