"""Loading: what comes back, and every failure in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from flexlora.errors import ModelError
from flexlora.models import load_model

VOCABULARY = {"<unk>": 0, "</s>": 1, "a": 2, "b": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as save_pretrained writes it, with a word-level tokenizer without a pad token."""
    folder = tmp_path_factory.mktemp("saved")
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=4,
        max_position_embeddings=32,
        eos_token_id=1,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_a_folder_loads_frozen_in_eval_mode(
    saved: Path, dtype: str, expected: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    base = load_model(saved, dtype)
    assert capfd.readouterr() == ("", "")
    assert base.name == str(saved)
    assert base.context == 32
    assert not base.model.training
    assert all(not p.requires_grad and p.dtype == expected for p in base.model.parameters())
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id == 1
    assert base.tokenizer("a b").input_ids == [2, 3]
    assert load_model(str(saved)).context == 32


def test_the_quiet_settings_are_put_back(saved: Path) -> None:
    level = transformers.logging.get_verbosity()
    hub = huggingface_hub.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    load_model(saved)
    assert transformers.logging.get_verbosity() == level
    assert transformers.logging.is_progress_bar_enabled() == bars
    assert huggingface_hub.logging.get_verbosity() == hub


def test_tries_to_reach_the_hub_are_not_told_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def unreachable(**_: object) -> None:
        for part in ("utils._http", "file_download"):
            told = huggingface_hub.logging.get_logger(f"huggingface_hub.{part}")
            told.warning("HEAD https://… timed out, retrying in 1s [Retry 1/5].")
        raise OSError("offline")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match="offline; check the name and the network"):
        load_model("nothere")
    assert capfd.readouterr() == ("", "")


def test_no_folder_and_unknown_dtype(tmp_path: Path, saved: Path) -> None:
    for name in (tmp_path / "gone", str(tmp_path / "gone"), "./gone"):
        with pytest.raises(ModelError, match=r"model folder .*gone does not exist; give a folder"):
            load_model(name)
    with pytest.raises(ModelError, match=r"dtype 'float23' .* did you mean 'float32'"):
        load_model(saved, "float23")
    with pytest.raises(ModelError, match=r"model folder .* has no config.json"):
        load_model(tmp_path)


def test_a_name_that_the_hub_cannot_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError("no such repository.\nlong advice")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    message = "model some/name cannot be read: no such repository; check the name and the network"
    with pytest.raises(ModelError, match=message):
        load_model("some/name")
    with pytest.raises(ModelError, match=r"no such repository; did you mean 'smollm2-135m'\?"):
        load_model("smollm-135m")


def test_weights_that_cannot_be_used(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load_file(weights)
    for broken in (b"", whole[: len(whole) // 2], b"not safetensors at all"):
        weights.write_bytes(broken)
        with pytest.raises(ModelError, match=r"weights of model .* cannot be loaded: .*; they are"):
            load_model(folder)
    save_file({"x": torch.ones(2)}, weights)
    with pytest.raises(ModelError, match=r"lack \d+ parameters, lm_head.weight first; they belong"):
        load_model(folder)
    tensors.pop("model.norm.weight")
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"lack 1 parameters, model.norm.weight first"):
        load_model(folder)
    weights.write_bytes(whole)
    edit(folder / "config.json", intermediate_size=13)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*do not fit config.json"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors; copy the weights"):
        load_model(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle files only, which can run code .*; convert"):
        load_model(folder)


@pytest.mark.parametrize(
    ("model_type", "architecture", "message"),
    [
        ("t5", "T5ForConditionalGeneration", "is of type t5, not a causal language model"),
        ("llava", "LlavaForConditionalGeneration", "is of type llava, not a causal language model"),
        ("qwen2_vl", "Qwen2VLForConditionalGeneration", "is of type qwen2_vl, not a causal"),
        ("bert", "BertForMaskedLM", "is a BertForMaskedLM, not a causal language model"),
        ("nonsense", "None", "cannot be read: .*; repair config.json"),
    ],
)
def test_no_causal_language_model(
    folder: Path, model_type: str, architecture: str, message: str
) -> None:
    config = {"model_type": model_type, "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot be read: .*; repair config.json"):
        load_model(folder)


def test_tokenizers_that_cannot_be_used(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match=r"has no EOS token, which ends every response; set"):
        load_model(folder)
    edit(folder / "tokenizer_config.json", eos_token="<end>")
    with pytest.raises(
        ModelError, match=r"has its EOS token at 4, beyond the model's 4 embeddings"
    ):
        load_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ModelError, match=r"has no tokenizer that can be loaded: .*; copy tokenizer"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "context", "pad"), [("ni-llama-6m", 1024, 0), ("stories260K", 512, None)]
)
def test_real_models_load(shared: Path, name: str, context: int, pad: int | None) -> None:
    base = load_model(shared / "models" / name)
    assert base.context == context
    assert base.tokenizer.pad_token_id == (base.tokenizer.eos_token_id if pad is None else pad)
    text = "Once upon a time there was"
    assert base.tokenizer.decode(base.tokenizer(text).input_ids, skip_special_tokens=True) == text
