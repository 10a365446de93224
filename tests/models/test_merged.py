"""A merged folder computes what base and adapter do; PEFT and our own layer are the oracles."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from flexlora.adapters import About, Adapter, Factors
from flexlora.errors import AdapterError, ConfigError, FlexLoRAError, ModelError, RunError
from flexlora.formats.peft import save_peft
from flexlora.models import (
    AdaptedModel,
    BaseModel,
    base_fingerprint,
    load_model,
    model_fingerprint,
    save_merged,
)
from flexlora.models.targets import find_layers
from models.families import linear_names, names, tiny
from models.oracle import random_model
from reference import gaussian

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {},
    "neox": {},
    "tied": {"tie_word_embeddings": True},
    "untied gpt2": {"tie_word_embeddings": False},
}
TOKENS = torch.arange(24).reshape(2, 12)


def base_of(kind: str, folder: Path | None = None, dtype: torch.dtype = torch.float32) -> BaseModel:
    """A tiny random model; with a folder, also written there, with a tokenizer."""
    if kind == "tiny":
        return load_model("tiny")
    family = {"tied": "llama", "untied gpt2": "gpt2"}.get(kind, kind)
    made = random_model(family, dtype, vocab_size=1024, **KINDS[kind])
    base = BaseModel(made.model, load_model("tiny").tokenizer, str(folder or kind), 64)
    if folder is not None:
        made.model.save_pretrained(folder)  # type: ignore[operator]
        base.tokenizer.save_pretrained(folder)
    return base


def adapter_for(base: BaseModel, size: float = 0.1, **known: Any) -> Adapter:
    """Of mixed ranks and scales, on every linear layer but the head; one of rank 0."""
    layers = {}
    for index, layer in enumerate(find_layers(base.model, base.name, ("all-linear",))):
        r = (3, 1, 0, 5)[index % 4]
        b, a = gaussian(layer.m, r, seed=index), gaussian(r, layer.n, seed=index + 50)
        layers[layer.name] = Factors(b * size, a, (2.0, 0.7)[index % 2])
    return Adapter(layers, About(base.name, **known))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model.eval()(TOKENS).logits
    assert isinstance(found, Tensor)
    return found


def assert_near(got: Tensor, wanted: Tensor, limit: float = 1e-5) -> None:
    assert float((got - wanted).norm() / wanted.norm()) < limit


@pytest.mark.parametrize("kind", [*KINDS, "tiny"])
def test_the_folder_computes_what_base_and_adapter_do(tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    base, out = base_of(kind), tmp_path / "out"
    adapter = adapter_for(base, fan_in_fan_out="gpt2" in kind)
    before, print_before = logits(base.model), model_fingerprint(base.model)
    lost = save_merged(adapter, out, base=base)
    assert 0.0 < lost < 1e-5
    assert model_fingerprint(base.model) == print_before
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert type(loaded) is type(base.model)
    merged = logits(loaded)
    assert not torch.allclose(merged, before, atol=1e-2)
    save_peft(adapter, tmp_path / "adapter")
    assert_near(
        merged, logits(PeftModel.from_pretrained(base_of(kind).model, tmp_path / "adapter"))
    )
    ours = AdaptedModel(base_of(kind))
    ours.set_delta({name: factors.product() for name, factors in adapter.items()})
    assert_near(merged, logits(ours.model))
    again = load_model(out)
    assert_near(logits(again.model), merged, 1e-7)
    assert (
        again.tokenizer("name the colour").input_ids == base.tokenizer("name the colour").input_ids
    )
    assert (out / "generation_config.json").is_file()
    assert {x.stat().st_mode for x in out.iterdir()} == {(out / "config.json").stat().st_mode}


def alone_and_merged(name: str, folder: Path) -> tuple[Tensor, Tensor, Tensor] | None:
    """Logits of a family's base, of base and adapter, and of the folder; None without layers."""
    base = tiny(name)
    assert base is not None
    for targets in (("all-linear",), ("attention",), linear_names(base.model)):
        with suppress(ModelError):
            layers = find_layers(base.model, name, targets)
            break
    else:
        return None
    adapter = Adapter(
        {
            x.name: Factors(0.1 * gaussian(x.m, 2, seed=i), gaussian(2, x.n, seed=i + 9), 1.5)
            for i, x in enumerate(layers)
        },
        name,
    )
    bare = logits(base.model)
    save_merged(adapter, folder, base=base)
    model = AdaptedModel(base, tuple(adapter))
    model.set_delta({x: factors.product() for x, factors in adapter.items()})
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    return bare, logits(model.model), logits(loaded)


# Experts in one parameter, fused projections, Conv1D elsewhere, weights under other names on disk.
MANY = ["mixtral", "phi3", "gpt_bigcode", "openai-gpt", "opt", "gemma3_text", "olmoe", "bloom"]
# They do not run so small, or not without the config of what they are part of.
NOT_SO = {"mllama", "emu3", "qwen4_exp", "qwen4_exp_text", "xlstm", "xmod"}


@pytest.mark.parametrize("name", MANY)
def test_families_that_lie_otherwise_on_disk(tmp_path: Path, name: str) -> None:
    found = alone_and_merged(name, tmp_path / "out")
    assert found is not None
    bare, wanted, got = found
    assert_near(got, wanted)
    assert float((wanted - bare).norm() / wanted.norm()) > 1e-3


@pytest.mark.soak
@pytest.mark.parametrize("name", [x for x in names() if x not in {*MANY, *NOT_SO}])
def test_every_family(tmp_path: Path, name: str) -> None:
    if tiny(name) is not None and (found := alone_and_merged(name, tmp_path / "out")):
        assert_near(found[2], found[1])


def test_part_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    base = tiny("emu3")
    assert base is not None
    words = ("is a Emu3ForCausalLM, part of a larger model, which nobody can load alone",)
    refused(tmp_path, one("model.layers.0.self_attn.q_proj", 32, 32), base, *words)


def test_a_generation_config_as_it_was_published(tmp_path: Path) -> None:
    """With a temperature beside greedy search: many have it so, and none may be lost for it."""
    place = tmp_path / "small"
    base_of("llama", place)
    odd = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2]}
    (place / "generation_config.json").write_text(json.dumps(odd))
    save_merged(adapter_for(base_of("llama")), tmp_path / "out", base=place)
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {key: kept[key] for key in odd} == odd


@pytest.mark.parametrize("kind", ["tied", "gpt2"])
def test_what_was_tied_is_tied_and_nothing_else_moves(tmp_path: Path, kind: str) -> None:
    base = base_of(kind)
    adapter = adapter_for(base)
    save_merged(adapter, tmp_path / "out", base=base)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert not any("lm_head" in key for key in file.keys())  # noqa: SIM118
    touched = {f"{name}.weight" for name, factors in adapter.items() if factors.rank}
    for name, parameter in base.model.named_parameters():
        same = torch.equal(parameter, loaded.get_parameter(name))
        assert same == (name not in touched), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_every_weight_is_of_the_dtype_and_rounded_once(
    tmp_path: Path, held: torch.dtype, dtype: str
) -> None:
    base = base_of("gpt2", dtype=held)
    adapter, config = adapter_for(base), dict(vars(base.model.config))
    lost = save_merged(adapter, tmp_path / "out", base=base, dtype=dtype)
    assert vars(base.model.config) == config
    assert {x.dtype for x in base.model.parameters()} == {held}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    wanted = getattr(torch, dtype)
    errors, norms = 0.0, 0.0
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == wanted
        exact = base.model.get_parameter(name).detach().double()
        factors = adapter.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if factors is not None:
            update = factors.scale * (factors.b.double() @ factors.a.double()).T
            exact = exact + update
            norms += float(update.norm()) ** 2
            errors += float((parameter.detach().double() - exact).norm()) ** 2
        torch.testing.assert_close(
            parameter.detach().double(), exact, rtol=torch.finfo(wanted).eps / 1.9, atol=6e-8
        )
    assert lost == pytest.approx((errors / norms) ** 0.5, rel=1e-6)


def test_without_a_dtype_it_is_that_of_the_base(tmp_path: Path) -> None:
    base = base_of("llama", dtype=torch.bfloat16)
    assert 1e-3 < save_merged(adapter_for(base), tmp_path / "out", base=base) < 0.1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert {x.dtype for x in loaded.parameters()} == {torch.bfloat16}


def test_the_base_is_the_one_that_the_adapter_names(tmp_path: Path) -> None:
    """Loaded in the precision that it was trained on; weights of another one are refused."""
    place = tmp_path / "org" / "small"
    base = base_of("llama", place, torch.bfloat16)
    known = base_fingerprint("bfloat16", model_fingerprint(base.model))
    adapter = adapter_for(base_of("llama", place, torch.bfloat16), base_fingerprint=known)
    save_merged(adapter, tmp_path / "out")
    save_merged(adapter, tmp_path / "same", base=base_of("llama", None, torch.bfloat16))
    ours, theirs = (load_model(tmp_path / x, "bfloat16").model for x in ("out", "same"))
    assert model_fingerprint(ours) == model_fingerprint(theirs)
    other = random_model("llama", torch.bfloat16, seed=1, vocab_size=1024)
    other.model.save_pretrained(place)  # type: ignore[operator]
    with pytest.raises(AdapterError, match=r"with weights .*; give the model that it was made for"):
        save_merged(adapter, tmp_path / "wrong")
    nameless = Adapter(dict(adapter))
    with pytest.raises(AdapterError, match="names no base model; give one as base"):
        save_merged(nameless, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def refused(tmp_path: Path, adapter: Adapter, base: BaseModel, *words: str, **options: Any) -> None:
    out = tmp_path / "out"
    prints = [(x, x.clone()) for x in base.model.parameters() if not x.is_meta]
    with pytest.raises(FlexLoRAError) as caught:
        save_merged(adapter, out, base=base, **options)
    for fragment in words:
        assert fragment in str(caught.value), caught.value
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(x, copy) for x, copy in prints)


def one(name: str, m: int, n: int, size: float = 1.0) -> Adapter:
    return Adapter({name: Factors(size * gaussian(m, 2), gaussian(2, n, seed=1), 1.0)}, "b")


def test_a_layer_that_shares_its_weight_is_refused(tmp_path: Path) -> None:
    tied = base_of("tied")
    head = one("lm_head", 1024, 24)
    words = ("layer lm_head of the adapter has one weight with model.embed_tokens", "beside its")
    refused(tmp_path, head, tied, *words)
    q = "model.layers.0.self_attn.q_proj"
    base = base_of("llama")
    layers: Any = base.model.get_submodule("model.layers")
    layers[1].self_attn.q_proj.weight = layers[0].self_attn.q_proj.weight
    refused(tmp_path, one(q, 24, 24), base, f"layer {q} of", "with model.layers.1.self_attn.q_proj")
    assert save_merged(head, tmp_path / "out", base=base_of("llama")) < 1e-5


def test_wrong_bases_and_adapters_are_refused(tmp_path: Path) -> None:
    q, base = "model.layers.0.self_attn.q_proj", base_of("llama")
    refused(tmp_path, one("model.layers.7.x", 24, 24), base, "made for b, not for llama: target")
    refused(tmp_path, one(q, 24, 23), base, f"layer {q} is 24 × 23 there, 24 × 24 here")
    refused(tmp_path, Adapter({}), base, "the adapter has no layers; there is nothing to merge")
    refused(tmp_path, one(q, 24, 24, float("nan")), base, "NaN")
    outline = load_model("tiny", without_weights=True)
    refused(tmp_path, one("model.layers.0.self_attn.q_proj", 128, 128), outline, "without its")
    base.model.config.quantization_config = {"quant_method": "gptq"}  # type: ignore[union-attr]
    refused(tmp_path, one(q, 24, 24), base, "model llama is quantised, and its weights take no sum")
    adapted = base_of("llama")
    AdaptedModel(adapted)
    refused(tmp_path, one(q, 24, 24), adapted, "model llama is adapted already")
    few = Adapter(dict(one(q, 24, 24)), About("org/m", "bfloat16-4bit:ab"))
    with pytest.raises(ModelError, match=r"trained on org/m in 4bit, .*; write the adapter alone"):
        save_merged(few, tmp_path / "out")
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        save_merged(few, tmp_path / "out", dtype="float61")
    with pytest.raises(RunError, match="exists"):
        save_merged(few, tmp_path)


def test_values_that_a_dtype_cannot_hold_are_named(tmp_path: Path) -> None:
    q, base = "model.layers.0.self_attn.q_proj", base_of("llama")
    words = (
        f"layer {q} of {tmp_path / 'out'} would hold ",
        "float16 holds 65504 at most; write it",
    )
    refused(tmp_path, one(q, 24, 24, 1e5), base, *words, dtype="float16")
    with torch.no_grad():
        base.model.get_parameter("model.norm.weight")[3] = 1e6
    words = ("parameter model.norm.weight of", "would hold 1e+06, and float16 holds 65504 at most")
    refused(tmp_path, one(q, 24, 24), base, *words, dtype="float16")


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written; and where the disk fills meanwhile, nothing is left."""
    q, base = "model.layers.0.self_attn.q_proj", base_of("llama")
    asked = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return type("Usage", (), {"free": 100_000})

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", usage)
        refused(tmp_path, one(q, 24, 24), base, "takes 2", "and its disk has 100.0 kB left; free")
        assert asked == [tmp_path]
    monkeypatch.setattr(type(base.model), "save_pretrained", full)
    refused(
        tmp_path, one(q, 24, 24), base, "cannot write", "No space left", "choose another folder"
    )


def full(*_: object, **__: object) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("I/O error: No space left on device (os error 28)")
