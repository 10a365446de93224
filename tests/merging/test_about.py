"""What a PEFT folder says beside its layers, after a merge: held to PEFT, which has to load it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

import flexlora.models
from flexlora.errors import AdapterError
from flexlora.formats.peft import load_peft, save_peft
from flexlora.formats.tokenizer_files import NAMES
from flexlora.merging import merge
from peft_folders import PREFIX, add, config_of, edit, pair, stored, write_folder
from peft_models import ATTENTION, TOKENS, llama, output, written

TINY = Path(flexlora.models.__file__).parent / "tiny"


def two(place: Path, first: Any, second: Any) -> list[Path]:
    """Adapters of the same layers, each with these entries of its config."""
    tensors = pair("layers.0.q", 6, 5, 2) | pair("layers.0.v", 6, 5, 2)
    return [
        write_folder(place / name, tensors, r=2, **config)
        for name, config in (("a", first), ("b", second))
    ]


# --- revisions, tasks and classes ----------------------------------------------------------------


def test_what_all_say_is_said_of_the_sum(tmp_path: Path) -> None:
    about = {
        "revision": "step1000",
        "task_type": "FEATURE_EXTRACTION",
        "auto_mapping": {"base_model_class": "BertModel", "parent_library": "transformers"},
    }
    adapters = two(tmp_path, about, about)
    for given in (adapters, adapters[:1]):
        out = tmp_path / f"of{len(given)}"
        merge(given, out)
        assert {key: config_of(out)[key] for key in about} == about
    other = {"task_type": "CAUSAL_LM", "auto_mapping": None, "revision": None}
    merge([adapters[0], edit(adapters[1], **other)], tmp_path / "mixed")
    config = config_of(tmp_path / "mixed")
    assert (config["task_type"], config.get("auto_mapping")) == (None, None)
    assert config["revision"] == "step1000"  # The other one does not say.


def test_two_revisions_are_two_models(tmp_path: Path) -> None:
    base = {"base_model_name_or_path": "org/m"}
    adapters = two(tmp_path, base | {"revision": "step1"}, base | {"revision": "step2"})
    words = r"made for org/m as of revision 'step1', .*b as of 'step2'; give adapters of one base"
    with pytest.raises(AdapterError, match=words):
        merge(adapters, tmp_path / "out")
    merge(adapters, tmp_path / "out", force=True)
    assert "revision" not in config_of(tmp_path / "out")


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24}
    config = transformers.BertConfig(
        vocab_size=32, num_hidden_layers=1, num_attention_heads=2, **sizes
    )
    model: nn.Module = transformers.AutoModel.from_config(config).eval()
    return model


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", None])
def test_an_adapter_of_another_task_loads_after_either_way(
    tmp_path: Path, task: str | None
) -> None:

    def states(model: Any) -> Tensor:
        with torch.no_grad():
            found: Tensor = model.eval()(TOKENS).last_hidden_state
        return found

    folder = written(bert(), tmp_path / "a", 0, target_modules=["value"], task_type=task)
    merge([folder], tmp_path / "merged")
    save_peft(load_peft(folder), tmp_path / "saved")
    theirs = states(peft.PeftModel.from_pretrained(bert(), folder))
    assert float((theirs - states(bert())).abs().max()) > 1e-2
    for out in (tmp_path / "merged", tmp_path / "saved"):
        assert config_of(out)["task_type"] == task
        torch.testing.assert_close(states(peft.PeftModel.from_pretrained(bert(), out)), theirs)


# --- how layers are told -------------------------------------------------------------------------


def selections(place: Path, *adapters: Path, **options: Any) -> Any:
    merge(adapters, place, **options)
    return config_of(place)["target_modules"]


def test_layers_are_told_as_they_were_where_all_tell_the_same_ones(tmp_path: Path) -> None:
    short = {"target_modules": ["v", "q"], "exclude_modules": "layers.7", "layers_pattern": None}
    adapters = two(tmp_path, short, short | {"target_modules": ["q", "v"]})
    assert selections(tmp_path / "both", *adapters) == ["q", "v"]
    assert config_of(tmp_path / "both")["exclude_modules"] == "layers.7"
    assert selections(tmp_path / "one", adapters[0], compact=True) == ["q", "v"]
    full = ["layers.0.q", "layers.0.v"]
    edit(adapters[1], target_modules=r".*\.(q|v)")
    assert selections(tmp_path / "one_expression", adapters[1]) == r".*\.(q|v)"
    assert selections(tmp_path / "two_ways", *adapters) == full
    # What would not find a layer of the file, or cannot be run in linear time, is not believed.
    for place, modules in enumerate((["q"], "q", r"(?=x)q|(?!x)v", [], None)):
        edit(adapters[0], target_modules=modules)
        assert selections(tmp_path / f"not{place}", adapters[0]) == full
    edit(adapters[0], target_modules="all-linear")
    assert selections(tmp_path / "all", adapters[0]) == "all-linear"


def test_layers_of_one_adapter_alone_are_told_by_name(tmp_path: Path) -> None:
    short = {"target_modules": ["q", "v"]}
    adapters = two(tmp_path, short, short)
    add(adapters[0], **{f"{PREFIX}{key}": x for key, x in pair("layers.1.q", 6, 5, 2).items()})
    found = selections(tmp_path / "out", *adapters)
    assert found == ["layers.0.q", "layers.0.v", "layers.1.q"]


def llava() -> Any:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = transformers.LlamaConfig(
        vocab_size=64, intermediate_size=24, num_key_value_heads=1, **sizes
    )
    vision = transformers.CLIPVisionConfig(
        intermediate_size=16, patch_size=4, image_size=8, **sizes
    )
    torch.manual_seed(0)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=63)
    return transformers.LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("compact", [False, True])
def test_layers_that_have_other_names_by_now_are_found(tmp_path: Path, compact: bool) -> None:
    """Vision-language adapters from before transformers 4.52, whose keys PEFT renames."""

    def logits(*folder: Path) -> Tensor:
        model = llava()
        for x in folder:
            model = peft.PeftModel.from_pretrained(model, x).eval()
        with torch.no_grad():
            found: Tensor = model(input_ids=TOKENS).logits
        return found

    targets = r".*language_model.*\.(q_proj|v_proj)"
    folder = written(llava(), tmp_path / "a", 0, r=2, target_modules=targets)
    before = {
        key.replace("model.model.language_model.", "model.language_model.model."): x
        for key, x in stored(folder).items()
    }
    assert before.keys() != stored(folder).keys()
    add(folder, **(dict.fromkeys(stored(folder)) | before))
    merge([folder], tmp_path / "out", compact=compact)
    plain, theirs, ours = logits(), logits(folder), logits(tmp_path / "out")
    assert float((theirs - plain).abs().max()) > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# --- tokenizers ----------------------------------------------------------------------------------


def test_a_tokenizer_of_more_tokens_goes_along(tmp_path: Path) -> None:
    """PEFT widens the base by it, or the embeddings beside LoRA do not fit."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    base = transformers.AutoModelForCausalLM.from_pretrained(TINY)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer.add_tokens(["<a>", "<b>"])
    model.resize_token_embeddings(len(tokenizer))
    folder = written(model, tmp_path / "a", 0, target_modules=["q_proj"], task_type="CAUSAL_LM")
    edit(folder, base_model_name_or_path=str(tmp_path / "base"))
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("a card")
    told = merge([folder, folder], tmp_path / "out")
    assert told.tokenizer == "kept"
    assert not (tmp_path / "out" / "README.md").exists()
    names = {x.name for x in folder.iterdir()} & set(NAMES)
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    with torch.no_grad():
        theirs, ours = (
            peft.AutoPeftModelForCausalLM.from_pretrained(x).eval()(TOKENS).logits
            for x in (folder, tmp_path / "out")
        )
    torch.testing.assert_close(ours, theirs)


def test_tokenizers_that_differ_stay_where_they_are(tmp_path: Path) -> None:
    adapters = two(tmp_path, {}, {})
    assert merge(adapters, tmp_path / "none").tokenizer == "none"
    (adapters[0] / "tokenizer.json").write_text("{}")
    assert merge(adapters, tmp_path / "one").tokenizer == "kept"
    assert (tmp_path / "one" / "tokenizer.json").read_text() == "{}"
    (adapters[1] / "tokenizer.json").write_text("{} ")
    assert merge(adapters, tmp_path / "differ").tokenizer == "differ"
    assert not (tmp_path / "differ" / "tokenizer.json").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_tokenizer_that_never_ends_is_not_read(tmp_path: Path) -> None:
    adapters = two(tmp_path, {}, {})
    os.mkfifo(adapters[1] / "tokenizer.json")
    words = r"b/tokenizer.json, of the tokenizer beside the adapter, is no plain file; save the"
    with pytest.raises(AdapterError, match=words):
        merge(adapters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- dtypes --------------------------------------------------------------------------------------


def test_the_dtypes_that_are_told_are_those_that_are_written(tmp_path: Path) -> None:
    tensors = pair("q", 6, 5, 2) | pair("v", 6, 5, 2, dtype=torch.bfloat16)
    folder = write_folder(tmp_path / "a", tensors, r=2, alpha=3)
    for out, options in (("own", {}), ("compact", {"compact": True}), ("sum", {"rank": 2})):
        told = merge([folder], tmp_path / out, **options)
        held = {str(x.dtype).removeprefix("torch.") for x in stored(tmp_path / out).values()}
        assert set(told.dtype.split(" and ")) == held
        assert held == ({"float32"} if out == "sum" else {"float32", "bfloat16"})


def test_what_llama_computes_is_what_it_was(tmp_path: Path) -> None:
    """With short names, on the plainest of models."""
    folder = written(llama(), tmp_path / "a", 0, target_modules=ATTENTION)
    merge([folder], tmp_path / "out")
    assert config_of(tmp_path / "out")["target_modules"] == sorted(ATTENTION)
    theirs, ours = (
        output(peft.PeftModel.from_pretrained(llama(), x).eval())
        for x in (folder, tmp_path / "out")
    )
    torch.testing.assert_close(ours, theirs)
