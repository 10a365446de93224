"""PEFT folders: the oracle is PEFT itself, on tiny random models."""

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flexlora.adapters import About, Adapter, Factors, Scaling, Sides, lora_scale
from flexlora.errors import AdapterError, RunError
from flexlora.formats.peft import is_peft, load_peft, save_peft
from flexlora.formats.peft_reader import PeftReader

SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 11, "num_attention_heads": 2}


def model_of(kind: str) -> torch.nn.Module:
    import transformers

    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1)
    elif kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=11, n_head=2)
    else:
        config = transformers.GPTNeoXConfig(**SMALL, intermediate_size=24)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def linear_layers(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Name → (m, n) of all linear layers but the head; Conv1D keeps its weight as (n, m)."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and name not in ("lm_head", "embed_out"):
            found[name] = tuple(module.weight.shape)
            if type(module).__name__ == "Conv1D":
                found[name] = found[name][::-1]
    return found


def adapter_for(shapes: dict[str, tuple[int, int]], ranks: list[int]) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for index, (name, (m, n)) in enumerate(shapes.items()):
        r = ranks[index % len(ranks)]
        b, a = torch.randn(m, r, generator=generator), torch.randn(r, n, generator=generator)
        layers[name] = Factors(b * 0.1, a, 16 / r if r else 2.5)
    return Adapter(layers, "some/base")


def assert_same(first: Adapter, second: Adapter) -> None:
    assert (list(first), first.base) == (list(second), second.base)
    for name, factors in first.items():
        assert factors.scale == second[name].scale, name
        assert factors.b.dtype == second[name].b.dtype
        assert torch.equal(factors.b, second[name].b)
        assert torch.equal(factors.a, second[name].a)


def merged_logits(kind: str, adapter: Adapter, tokens: torch.Tensor) -> torch.Tensor:
    model = model_of(kind)
    modules = dict(model.named_modules())
    for name, factors in adapter.items():
        update = factors.product().dense()
        conv = type(modules[name]).__name__ == "Conv1D"
        with torch.no_grad():
            modules[name].weight += update.T if conv else update
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox"])
def test_peft_computes_base_plus_product(
    kind: str, compact: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Eleven layers: "layers.1" must not be taken for "layers.10"."""
    from peft import PeftModel

    model = model_of(kind)
    # Rank 3 is the most common; in the compact form the other ranks and alphas need patterns.
    adapter = adapter_for(linear_layers(model), [3, 1, 3, 5, 0, 3, 2])
    save_peft(adapter, tmp_path / "out", fan_in_fan_out=kind == "gpt2", compact=compact)
    recwarn.clear()
    loaded = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    assert [str(w.message) for w in recwarn if "peft" in w.filename] == []
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        logits = loaded(tokens).logits
    expected = merged_logits(kind, adapter, tokens)
    assert not torch.allclose(expected, model_of(kind)(tokens).logits, atol=1e-2)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for name, module in loaded.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            assert module.r["default"] == (max(1, adapter[name].rank) if compact else 5)
            assert module.scaling["default"] == (adapter[name].scale if compact else 1.0)
    if compact:
        assert_same(load_peft(tmp_path / "out"), adapter)
    assert load_peft(tmp_path / "out").ranks == adapter.ranks


@pytest.mark.parametrize("options", [{}, {"compact": True}, {"serve": "vllm"}])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox"])
def test_load_adapter_of_transformers_reads_it_too(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model: Any = model_of(kind)
    adapter = adapter_for(linear_layers(model), [3, 1, 3, 5, 0, 3, 2])
    save_peft(adapter, tmp_path / "out", fan_in_fan_out=kind == "gpt2", **options)
    model.load_adapter(str(tmp_path / "out"))
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        logits = model(tokens).logits
    expected = merged_logits(kind, adapter, tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_is_known_of_the_base_is_kept_and_peft_says_nothing(
    kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from peft import PeftModel

    model = model_of(kind)
    plain = adapter_for(linear_layers(model), [2])
    about = About("some/base", "float32:ab", fan_in_fan_out=kind == "gpt2")
    known = Adapter(plain, about)
    save_peft(known, tmp_path / "a")
    recwarn.clear()
    PeftModel.from_pretrained(model, tmp_path / "a")
    assert [str(w.message) for w in recwarn if "peft" in w.filename] == []
    back = load_peft(tmp_path / "a")
    assert (back.base, back.base_fingerprint) == ("some/base", "float32:ab")
    assert back.about.fan_in_fan_out == (kind == "gpt2")
    save_peft(back, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # Under another name the fingerprint is of no use; without one, nothing is noted.
    save_peft(known, tmp_path / "c", base_model="another/base")
    assert load_peft(tmp_path / "c").base_fingerprint == ""
    save_peft(plain, tmp_path / "d")
    assert not (tmp_path / "d" / "flexlora.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_scaling_and_what_is_a_peft_folder_are_told(tmp_path: Path) -> None:
    save_peft(adapter_for({"x.q": (3, 4)}, [2]), tmp_path / "a")
    assert is_peft(tmp_path / "a")
    assert is_peft(tmp_path)  # It holds a folder of one, which the error for it names.
    assert not is_peft(tmp_path / "b")
    with PeftReader(tmp_path / "a") as reader:
        assert reader.scaling == "lora"
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_rslora": True}))
    with PeftReader(tmp_path / "a") as reader:
        assert reader.scaling == "rslora"


@pytest.mark.parametrize("anchor", [1, 2, 3, 7])
@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_the_scale_of_every_scaling_comes_back_to_the_last_bit(
    scaling: Scaling, anchor: int, tmp_path: Path
) -> None:
    """√(anchor · r) is seldom a float: PEFT's α/r is then within an ulp, our own reading exact."""
    plain = adapter_for({f"layers.{i}.q_proj": (9, 9) for i in range(9)}, list(range(1, 10)))
    adapter = Adapter(
        {
            name: Factors(f.b, f.a, lora_scale(5.0, f.rank, scaling, anchor))
            for name, f in plain.items()
        },
        "some/base",
    )
    save_peft(adapter, tmp_path / "a", compact=True)
    assert_same(load_peft(tmp_path / "a"), adapter)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    for name, factors in adapter.items():
        pinned = "^" + re.escape(name)
        alpha = config["alpha_pattern"].get(pinned, config["lora_alpha"])
        rank = config["rank_pattern"].get(pinned, config["r"])
        assert alpha / rank == pytest.approx(factors.scale, rel=1e-15)
    # What PEFT trains on with: rsLoRA at α/√anchor is the anchored scale of every rank.
    if scaling == "anchored":
        from peft import LoraConfig

        for factors in adapter.values():
            further = LoraConfig(r=factors.rank, lora_alpha=5.0 / anchor**0.5, use_rslora=True)
            ours = lora_scale(further.lora_alpha, further.r, "rslora")
            assert ours == pytest.approx(factors.scale, rel=1e-15)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_wrote_is_read(rslora: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=rslora,
        init_lora_weights=False,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 2, "layers.3.self_attn.q_proj": 3},
        alpha_pattern={r"layers\.[12]\..*": 5},
    )
    model = get_peft_model(model_of("llama"), config).eval()
    model.save_pretrained(tmp_path / "peft")
    adapter = load_peft(tmp_path / "peft")
    modules = dict(model.base_model.model.named_modules())
    wrapped = {name for name, module in modules.items() if hasattr(module, "lora_A")}
    assert set(adapter) == wrapped
    for name, factors in adapter.items():
        assert factors.rank == modules[name].r["default"]
        assert factors.scale == modules[name].scaling["default"]
        assert torch.equal(factors.a, modules[name].lora_A["default"].weight)
        assert torch.equal(factors.b, modules[name].lora_B["default"].weight)
    assert {factors.rank for factors in adapter.values()} == {2, 3, 4}


def test_what_peft_wrote_for_dora_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, use_dora=True, target_modules=["q_proj"])
    get_peft_model(model_of("llama"), config).save_pretrained(tmp_path / "peft")
    with pytest.raises(AdapterError, match=r"holds DoRA \(use_dora\)"):
        load_peft(tmp_path / "peft")


names = st.lists(st.text("ab.+*($é", min_size=1, max_size=6), min_size=1, max_size=4, unique=True)
scales = st.floats(1e-6, 1e6) | st.sampled_from([16 / 30, 16 / math.sqrt(30), -2.0, 0.0])


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names,
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    st.lists(scales, min_size=4, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_round_trip_is_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    layers: list[str],
    ranks: list[int],
    found: list[float],
    dtype: torch.dtype,
) -> None:
    adapter = Adapter(
        {
            name: Factors(torch.randn(3, r).to(dtype), torch.randn(r, 4).to(dtype), scale)
            for name, r, scale in zip(layers, ranks, found, strict=False)
        }
    )
    folder = tmp_path_factory.mktemp("peft")
    save_peft(adapter, folder / "compact", compact=True)
    assert_same(load_peft(folder / "compact"), adapter)
    # Else the scale is in B, rounded once, and what is written is written again bit for bit.
    if any(f.scale > 6e4 or 0 < f.scale < 1e-4 for f in adapter.values()) and dtype.itemsize == 2:
        return
    save_peft(adapter, folder / "one")
    back = load_peft(folder / "one")
    assert back.ranks == adapter.ranks
    for name, factors in adapter.items():
        assert back[name].scale == 1.0
        assert torch.equal(back[name].b, (factors.b.double() * factors.scale).to(dtype))
        assert torch.equal(back[name].a, factors.a)
    save_peft(back, folder / "two")
    assert_same(load_peft(folder / "two"), back)


def test_equal_adapters_give_equal_bytes_and_the_base_can_be_named(tmp_path: Path) -> None:
    adapter = adapter_for({"x.q": (4, 5), "x.k": (4, 5)}, [2, 0])
    for out in ("one", "two"):
        save_peft(adapter, tmp_path / out, base_model="other/base")
    assert load_peft(tmp_path / "one").base == "other/base"
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_saving_refuses(tmp_path: Path) -> None:
    good = adapter_for({"q": (4, 5)}, [2])
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="there exists; choose another path or remove it"):
        save_peft(good, tmp_path / "there")
    with pytest.raises(AdapterError, match="no layers"):
        save_peft(Adapter({}), tmp_path / "out")
    factors = good["q"]
    with pytest.raises(AdapterError, match="layer q of the adapter holds NaN or infinity"):
        save_peft(Adapter({"q": Factors(factors.b * math.nan, factors.a, 1.0)}), tmp_path / "out")
    with pytest.raises(AdapterError, match="layer q of the adapter holds NaN or infinity"):
        save_peft(Adapter({"q": Factors(factors.b, factors.a, math.inf)}), tmp_path / "out")
    for side in get_args(Sides)[1:]:
        message = f"layer q of the adapter holds {side} alone; fill the other side before it is sav"
        with pytest.raises(AdapterError, match=message):
            save_peft(Adapter({"q": factors.only(side)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


NAMES = {
    "": "layer '' of the adapter is no name of printable characters",
    "a\nb": r"layer 'a\\nb' of the adapter is no name of printable characters",
    "\ud800": r"of the adapter is no name of printable characters",
    "module.q": "layer 'module.q' of the adapter is wrapped: readers take it for 'q'",
    "x._orig_mod.q": "is wrapped: readers take it for 'x.q'; give its plain name",
    "base_model.model.q": "is wrapped: readers take it for 'q'",
    "q" * 600: "of the adapter is 600 characters long, where a key holds 512",
}


@pytest.mark.parametrize("name", NAMES)
def test_saving_refuses_a_name_that_would_not_come_back(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdapterError, match=NAMES[name]):
        save_peft(adapter_for({name: (4, 5)}, [2]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_longest_name_comes_back(tmp_path: Path) -> None:
    longest = "q" * (512 - len("base_model.model..lora_embedding_A"))
    for place, name in enumerate((longest, "é.ü", "with space")):
        save_peft(adapter_for({name: (4, 5)}, [2]), tmp_path / f"{place}")
        assert list(load_peft(tmp_path / f"{place}")) == [name]
    with pytest.raises(AdapterError, match="characters long"):
        save_peft(adapter_for({f"{longest}q": (4, 5)}, [2]), tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn])
def test_saving_refuses_what_nothing_sums(tmp_path: Path, dtype: torch.dtype) -> None:
    factors = Factors(torch.ones(4, 2), torch.ones(2, 5), 1.0)
    object.__setattr__(factors, "b", factors.b.to(dtype))  # Past the tests' own checks of types.
    held = str(dtype).removeprefix("torch.")
    with pytest.raises(AdapterError, match=f"layer q of the adapter holds {held}; give float32"):
        save_peft(Adapter({"q": factors}), tmp_path / "out")


def test_saving_refuses_what_a_config_could_not_say(tmp_path: Path) -> None:
    good = adapter_for({"q": (4, 5)}, [2])
    for base in ("x" * 5000, "a\ud800"):
        with pytest.raises(AdapterError, match=r"the base model's name is .* characters; give one"):
            save_peft(good, tmp_path / "out", base_model=base)
    large = Adapter({"q": Factors(good["q"].b, good["q"].a, 1e30)})
    with pytest.raises(AdapterError, match=r"scale of 1e\+30, for which lora_alpha .* compact out"):
        save_peft(large, tmp_path / "out", compact=True)
    assert list(tmp_path.iterdir()) == []
    save_peft(large, tmp_path / "out", base_model="a\nb")
    assert (load_peft(tmp_path / "out")["q"].scale, load_peft(tmp_path / "out").base) == (
        1.0,
        "a\nb",
    )


def test_what_else_a_folder_says_of_its_model_comes_back(folder: Path, tmp_path: Path) -> None:
    said = {"revision": "v2", "task_type": "SEQ_CLS", "target_modules": ["q"]}
    edit(folder, **said, auto_mapping={"base_model_class": "M", "parent_library": None})
    adapter = load_peft(folder)
    save_peft(adapter, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert {key: config[key] for key in said} == said
    assert config["auto_mapping"]["base_model_class"] == "M"
    # Of another model the revision is none; layers of other names are told by them.
    save_peft(adapter, tmp_path / "other", base_model="org/other")
    assert load_peft(tmp_path / "other").about.revision == ""
    save_peft(Adapter({"x.v": adapter["x.q"]}, adapter.about), tmp_path / "renamed")
    config = json.loads((tmp_path / "renamed" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["x.v"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux alone")
def test_a_path_that_is_no_utf_8_is_said_to_be(folder: Path) -> None:
    odd = folder.rename(folder.with_name("a\udcff"))
    with pytest.raises(AdapterError, match=r"has a name that is no UTF-8, .*; rename it"):
        load_peft(odd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_peft(adapter_for({"x.q": (4, 5)}, [2]), tmp_path / "out")
    return tmp_path / "out"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


WRONG_CONFIGS = [
    ({"use_dora": True}, "holds DoRA (use_dora)"),
    ({"lora_bias": True}, "holds LoRA biases (lora_bias)"),
    ({"bias": "all"}, "holds trained biases (bias = 'all')"),
    ({"modules_to_save": ["lm_head"]}, "holds whole modules saved beside LoRA (modules_to_save)"),
    ({"target_parameters": "w"}, "has target_parameters 'w'; make it a list of names"),
    ({"init_lora_weights": "pissa_niter_4"}, "was initialised by 'pissa_niter_4'"),
    ({"peft_type": "IA3"}, "is a PEFT adapter of type 'IA3'; only LORA can be read"),
    ({"r": 3}, "layer x.q in {} has rank 2, but adapter_config.json says 3"),
    ({"r": "many"}, "has r 'many' for layer x.q; give a whole number of 1 or more"),
    ({"lora_alpha": None}, "has lora_alpha None for layer x.q"),
    ({"rank_pattern": {"(": 2}}, "has a pattern for r that cannot be read"),
    ({"alpha_pattern": [1]}, "has alpha_pattern [1]; make it a table of patterns and numbers"),
    ({"alpha_pattern": {"a{99999999999999999999}": 2}}, "has a pattern for lora_alpha that cannot"),
    ({"rank_pattern": {"(" * 20_000 + "q" + ")" * 20_000: 2}}, "has a pattern for r that cannot"),
    ({"rank_pattern": {"(" * 300 + "q" + ")" * 300 + r"\1": 2}}, "has a pattern for r that cannot"),
    ({"rank_pattern": {"(?!k).*": 2}}, "'(?!k).*': it has parts that cannot be run in linear time"),
    ({"rank_pattern": {"q": 10**400}}, "has r 1000000"),
    ({"r": 10**400}, "has r 1000000"),
    ({"r": 0}, "has r 0 for layer x.q; give a whole number of 1 or more"),
    ({"r": True}, "has r True for layer x.q"),
    ({"lora_alpha": 10**400}, "has lora_alpha 1000000"),
    ({"lora_alpha": math.inf}, "has lora_alpha inf for layer x.q; give a number"),
    ({"lora_alpha": math.nan}, "has lora_alpha nan for layer x.q"),
    ({"revision": 7}, "has revision 7; make it a name"),
    ({"auto_mapping": {"a": 1}}, "has auto_mapping {{'a': 1}}; make it a table of names"),
    (
        {"target_modules": {"q": 1}},
        "has target_modules {{'q': 1}}; make it a pattern, or a list of",
    ),
    ({"layers_to_transform": ["a"]}, "has layers_to_transform ['a']; make it a number, or a list"),
    ({"base_model_name_or_path": ["a"]}, "has base_model_name_or_path ['a']; make it the name of"),
    ({"base_model_name_or_path": "a" * 5000}, "has base_model_name_or_path 'aaaa"),
    ({"base_model_name_or_path": "\ud800"}, "adapter_config.json is not readable JSON"),
    ({"task_type": []}, "has task_type []; make it a name"),
    ({"modules_to_save": [1]}, "has modules_to_save [1]; make it a list of names"),
    ({"modules_to_save": "head"}, "has modules_to_save 'head'; make it a list of names"),
    ({"peft_type": "x" * 9999}, "is a PEFT adapter of type 'xxxx"),
    ({"bias": "x" * 9999}, "holds trained biases (bias = 'xxxx"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CONFIGS)
def test_a_config_that_is_no_plain_lora_is_refused(
    folder: Path, changes: Any, message: str
) -> None:
    edit(folder, **changes)
    with pytest.raises(AdapterError) as caught:
        load_peft(folder)
    assert message.format(folder) in str(caught.value)
    assert len(str(caught.value)) < 400


HANGS = ["(a+)+b", "(.*)*x", ".*" * 30 + "x", "((q|.)*)*b", "(.*?){2,9}z"]


@pytest.mark.parametrize("pattern", HANGS)
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern", "target_modules"])
def test_an_expression_that_would_run_for_ever_is_run_in_linear_time(
    tmp_path: Path, pattern: str, key: str
) -> None:
    """Python's `re` needs longer than anyone lives for each of them; none matches."""
    name = "a" * 300
    save_peft(adapter_for({name: (4, 5)}, [2]), tmp_path / "out")
    edit(tmp_path / "out", **{key: pattern if key == "target_modules" else {pattern: 7}})
    assert load_peft(tmp_path / "out").ranks == {name: 2}


PREFIX = "base_model.model.x.q."
WRONG_TENSORS = [
    ({"lora_magnitude_vector": torch.ones(4)}, "holds DoRA (tensor"),
    ({"lora_embedding_A": torch.ones(2, 5)}, "holds layer x.q twice"),
    ({"lora_B.bias": torch.ones(4)}, "holds trained biases (tensor"),
    ({"weight": torch.ones(4, 5)}, "holds tensor 'base_model.model.x.q.weight'"),
    ({"lora_B.weight": None}, "layer x.q in {} has no B (lora_B, lora_up)"),
    ({"lora_A.weight": None}, "layer x.q in {} has no A (lora_A, lora_down)"),
    ({"lora_A.weight": None, "lora_B.weight": None}, "holds no LoRA tensors"),
    (
        {"lora_A.weight": torch.ones(2, 0)},
        "is empty, of shape (2, 0), as DeepSpeed's",
    ),
    (
        {"lora_B.weight": torch.ones(0, 2)},
        "is empty, of shape (0, 2), as DeepSpeed's",
    ),
    ({"lora_A.weight": torch.ones(0)}, "q.lora_A.weight in {} is empty, of shape (0,)"),
    (
        {"l" * 600 + ".lora_A.weight": torch.ones(2, 5)},
        "holds a tensor of a name of 635 characters",
    ),
    (
        {"lora_A.a.weight": torch.ones(2, 5), "lora_A.b.weight": torch.ones(2, 5)},
        "holds several ada",
    ),
    ({"lora_A.weight": torch.full((2, 5), math.nan)}, "layer x.q of the adapter holds NaN"),
    ({"lora_A.weight": torch.full((2, 5), math.inf)}, "layer x.q of the adapter holds NaN or inf"),
    ({"lora_A.weight": torch.ones(3, 5)}, "shapes (3, 5) and (4, 2), expected (r, n) and (m, r)"),
    ({"lora_A.weight": torch.ones(2, 5, 1, 1)}, "only linear, embedding and convolution"),
    ({"lora_A.weight": torch.ones(2, 5, dtype=torch.int8)}, "save it as floats"),
    ({"lora_A.default.weight": torch.ones(2, 5)}, "holds layer x.q twice"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_TENSORS)
def test_tensors_that_are_no_plain_pairs_are_refused(
    folder: Path, changes: Any, message: str
) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) | {PREFIX + key: tensor for key, tensor in changes.items()}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(AdapterError) as caught:
        load_peft(folder)
    assert message.format(folder) in str(caught.value)


def test_missing_and_damaged_files_are_refused(folder: Path) -> None:
    def message() -> str:
        with pytest.raises(AdapterError) as caught:
            load_peft(folder)
        return str(caught.value)

    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert "adapter_model.safetensors is truncated or no safetensors file" in message()
    weights.unlink()
    assert "has no adapter_model.safetensors" in message()
    (folder / "adapter_model.bin").write_bytes(b"\x80")
    assert "holds only pickled weights (adapter_model.bin), which can run code" in message()
    weights.write_bytes(whole)
    (folder / "flexlora.json").write_text("[]")
    assert "flexlora.json is damaged (is not a JSON table); remove it, or save" in message()
    config.write_text("{")
    assert "adapter_config.json is not readable JSON" in message()
    config.write_text("[]")
    assert "adapter_config.json is not a JSON table" in message()
    config.unlink()
    assert "has no adapter_config.json; give a folder that save_pretrained wrote" in message()
    with pytest.raises(AdapterError, match="is not a folder; give a PEFT adapter folder"):
        load_peft(weights)


NOTES = [
    ({"ranks": "x"}, "ranks is 'x', expected an object"),
    ({"ranks": {"x": 1.5}}, "ranks.x is 1.5, expected a whole number"),
    ({"scales": [1]}, "scales is [1], expected an object"),
    ({"scales": {"x.q": True}}, "scales.x.q is True, expected a number"),
    ({"scales": {"x.q": 10**400}}, "expected a number that a float holds"),
    ({"base_fingerprint": 3}, "base_fingerprint is 3, expected a text"),
]


@pytest.mark.parametrize(("note", "message"), NOTES, ids=range(len(NOTES)))
def test_notes_of_another_type_are_damage(folder: Path, note: Any, message: str) -> None:
    (folder / "flexlora.json").write_text(json.dumps({"ranks": {}, "scales": {}} | note))
    with pytest.raises(AdapterError) as caught:
        load_peft(folder)
    assert "flexlora.json is damaged (" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "flexlora.json"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large", "gone"])
def test_what_never_ends_is_not_read(folder: Path, name: str, kind: str) -> None:
    place = folder / name
    place.unlink(missing_ok=True)
    if kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "large":
        with open(place, "wb") as file:
            file.truncate(1 << 40)
    else:
        place.symlink_to(folder / "nowhere")
    if (kind, name) == ("gone", "flexlora.json"):
        assert load_peft(folder)
        return
    with pytest.raises(AdapterError) as caught:
        load_peft(folder)
    words = {"large": "has more than 16 MB", "gone": "has no adapter_config.json"}
    assert words.get(kind, "is no plain file") in str(caught.value)


def test_weights_that_never_end_are_not_read(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"has no adapter_model\.safetensors"):
        load_peft(folder)


def test_a_folder_of_several_adapters_says_which_it_holds(tmp_path: Path) -> None:
    """PEFT saves every adapter but "default" to a folder of its name."""
    for name in ("one", "two"):
        save_peft(adapter_for({"x.q": (4, 5)}, [2]), tmp_path / "both" / name)
    with pytest.raises(AdapterError) as caught:
        load_peft(tmp_path / "both")
    words = (
        f"it holds adapters of their own ('one', 'two'); give one of them, like {tmp_path}/both/one"
    )
    assert words in str(caught.value)


def test_an_edited_alpha_wins_over_the_noted_scale(tmp_path: Path) -> None:
    adapter = Adapter({"q": Factors(torch.ones(2, 3), torch.ones(3, 2), math.nextafter(1.0, 0))})
    save_peft(adapter, tmp_path / "out", compact=True)
    edit(tmp_path / "out", lora_alpha=6)
    assert load_peft(tmp_path / "out")["q"].scale == 2.0
