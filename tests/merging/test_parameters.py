"""LoRA on bare parameters (PEFT's target_parameters), held to PEFT: expert by expert."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from flexlora.errors import AdapterError
from flexlora.formats.peft import load_peft
from flexlora.formats.peft_reader import PeftReader
from flexlora.merging import merge
from peft_folders import config_of, stored
from peft_models import change, loaded, output, with_updates, written
from reference import assert_all_close, assert_close, best, product

WEIGHTS = [0.5, -0.3, 1.2]
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "experts_implementation": "eager",  # Of all, the one that computes in float64.
}
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
BOTH = {"target_modules": [], "target_parameters": [GATE_UP, DOWN]}


def mixtral() -> nn.Module:
    """Experts of shape (E, outputs, inputs), and a router that is a bare matrix."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SIZES)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def gpt_oss() -> nn.Module:
    """Experts of shape (E, inputs, outputs), with biases (E, outputs) between them."""
    torch.manual_seed(0)
    config = transformers.GptOssConfig(**SIZES, head_dim=8, layer_types=["full_attention"] * 2)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def qwen3_moe() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"num_experts": 4, "moe_intermediate_size": 12, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(**SIZES | sizes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def llama4() -> nn.Module:
    """Experts of shape (E, inputs, outputs), which PEFT takes for (E, outputs, inputs)."""
    torch.manual_seed(0)
    sizes = {"intermediate_size_mlp": 24, "head_dim": 8, "num_experts_per_tok": 1}
    config = transformers.Llama4TextConfig(**SIZES | sizes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


class Experts(nn.Module):
    """Parameters whose names tell nothing of the order in which they are declared."""

    def __init__(self) -> None:
        super().__init__()
        self.zeta = nn.Parameter(torch.randn(4, 10, 12))
        self.alpha = nn.Parameter(torch.randn(4, 10, 10))
        self.mix = nn.Parameter(torch.randn(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        each = torch.einsum("eoi,bsi->ebso", self.zeta, x).tanh()
        return torch.einsum("eoi,ebsi->bso", self.alpha, each) @ self.mix.T


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 12)
        self.experts = Experts()
        self.head = nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.experts(self.embed(tokens)).tanh())


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


MODELS = {
    "mixtral": mixtral,
    "gpt_oss": gpt_oss,
    "qwen3_moe": qwen3_moe,
    "llama4": llama4,
    "net": net,
}
UNKNOWN = ["experts.alpha", "experts.zeta", "experts.mix"]
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "ranks": ("mixtral", [{"r": r, "lora_alpha": 5, **BOTH} for r in (2, 3, 1)]),
    "inputs first": ("gpt_oss", [{"r": r, "lora_alpha": 5, **BOTH} for r in (2, 3, 1)]),
    "Qwen3-MoE": ("qwen3_moe", [{"r": r, "lora_alpha": 5, **BOTH} for r in (2, 3, 1)]),
    "Llama 4": (
        "llama4",
        [
            {
                "r": r,
                "target_modules": ["shared_expert.down_proj"],
                "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            }
            for r in (2, 3, 1)
        ],
    ),
    "layers too, patterns and rsLoRA": (
        "mixtral",
        [
            {
                "r": 2,
                "lora_alpha": 3,
                "target_modules": ["q_proj"],
                "target_parameters": [DOWN, GATE_UP, "mlp.gate.weight"],
                "rank_pattern": {"gate_up_proj": 4, "layers.1.mlp.gate.weight": 3},
                "alpha_pattern": {r".*\.1\..*down_proj": 7, "q_proj": 9},
            },
            {"r": 4, **BOTH, "use_rslora": True},
            {"r": 2, "target_modules": ["v_proj"], "target_parameters": ["gate_up_proj"]},
        ],
    ),
    "each another parameter": (
        "gpt_oss",
        [
            {"r": 2, "target_modules": [], "target_parameters": [DOWN]},
            {"r": 3, "target_modules": [], "target_parameters": ["experts.gate_up_proj"]},
            {
                "r": 1,
                "target_modules": [],
                "target_parameters": [DOWN, GATE_UP, "experts.gate_up_proj_bias"],
            },
        ],
    ),
    "layers that have become parameters": (  # PEFT converts what transformers 4 called them.
        "mixtral",
        [
            {"r": 2, "target_modules": ["q_proj", "w1", "w2", "w3", "gate"]},
            {"r": 2, "target_modules": r".*\.(q_proj|w1|w2|w3)"},
            {"r": 3, "target_modules": "all-linear", "use_rslora": True},
        ],
    ),
    "names that do not tell the order": (
        "net",
        [{"r": r, "target_modules": [], "target_parameters": UNKNOWN} for r in (2, 3, 1)],
    ),
    "one name that the model lacks": (
        "net",
        [
            {
                "r": 2,
                "target_modules": ["head"],
                "target_parameters": ["experts.w", "experts.mix", "experts.zeta"],
            }
        ]
        * 3,
    ),
}


def folders_of(tmp_path: Path, case: str) -> tuple[nn.Module, list[Path]]:
    family, configs = CASES[case]
    model = MODELS[family]()
    return model, [written(model, tmp_path / f"{i}", i, **x) for i, x in enumerate(configs)]


def weighted(parts: list[Tensor]) -> Tensor:
    return sum((w * x for w, x in zip(WEIGHTS, parts, strict=True)), torch.zeros(()))


def experts(parameter: Tensor) -> list[Tensor]:
    return list(parameter) if parameter.ndim == 3 else [parameter]


LABELS = {
    "experts.zeta": {3: "experts.alpha+mix+zeta(1 of 3)", 2: "experts.mix+w+zeta(1 of 2)"},
    "experts.alpha": {3: "experts.alpha+mix+zeta(2 of 3)"},
    "experts.mix": {3: "experts.alpha+mix+zeta(3 of 3)", 2: "experts.mix+w+zeta(2 of 2)"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_expert_is_read_as_peft_computes_it(tmp_path: Path, case: str) -> None:
    model, folders = folders_of(tmp_path, case)
    for folder in folders:
        theirs: dict[str, Tensor] = {}
        wrappers = {
            f"{name.replace('.base_layer', '')}.{module.parameter_name}": module
            for name, module in loaded(model, folder).base_model.model.named_modules()
            if isinstance(module, peft.tuners.lora.ParamWrapper)
        }
        for name, module in wrappers.items():
            delta = module.get_delta_weight("default").detach()
            label = LABELS[name][len(wrappers)] if name in LABELS else name
            for i, one in enumerate(experts(delta)):
                inputs_first = delta.ndim == 3 and not module._did_swap_in_out_features
                place = f"{label}[{i}]" if delta.ndim == 3 else label
                theirs[place] = one.T if inputs_first else one
        with PeftReader(folder) as reader:
            layers = {x.name for x in reader.layers.values() if x.kind == "parameter"}
            assert_all_close({x: product(reader.factors(x)) for x in layers}, theirs, 1e-12)
            plain = {x.name for x in reader.layers.values() if x.kind == "linear"}
            assert all(x == "head" or "self_attn" in x or "shared" in x for x in plain)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_peft_computes_the_base_plus_the_weighted_sum(
    tmp_path: Path, case: str, compact: bool
) -> None:
    model, folders = folders_of(tmp_path, case)
    parts = [change(model, folder) for folder in folders]
    merge(folders, tmp_path / "out", weights=WEIGHTS, rank="full", compact=compact)
    got = change(model, tmp_path / "out")
    wanted = {name: weighted([part[name] for part in parts]) for name in got}
    assert_all_close(got, wanted, 1e-6)
    changed = output(with_updates(model, wanted))
    assert float((changed - output(copy.deepcopy(model).double())).norm()) > 1e-2
    got_logits = output(loaded(model, tmp_path / "out"))
    torch.testing.assert_close(got_logits, changed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_expert_is_the_best_of_its_rank(tmp_path: Path, case: str) -> None:
    model, folders = folders_of(tmp_path, case)
    parts = [change(model, folder) for folder in folders]
    merge(folders, tmp_path / "out", weights=WEIGHTS, rank=2)
    for name, got in change(model, tmp_path / "out").items():
        wanted = weighted([part[name] for part in parts])
        for one, other in zip(experts(got), experts(wanted), strict=True):
            assert_close(one, best(other, 2) if other.ndim == 2 else other, 1e-5)


def test_one_adapter_is_kept_bit_for_bit(tmp_path: Path) -> None:
    _, folders = folders_of(tmp_path, "layers too, patterns and rsLoRA")
    for i, folder in enumerate(folders):
        assert merge([folder], tmp_path / f"out{i}", compact=True).untouched
        given, made = stored(folder), stored(tmp_path / f"out{i}")
        assert given.keys() == made.keys()
        assert all(torch.equal(given[key], made[key]) for key in given)


def test_what_all_say_of_their_parameters_stays(tmp_path: Path) -> None:
    """PEFT takes no two adapters of different target_parameters into one model."""
    model, folders = folders_of(tmp_path, "ranks")
    merge(folders, tmp_path / "out", rank=2)
    assert sorted(config_of(tmp_path / "out")["target_parameters"]) == sorted([GATE_UP, DOWN])
    assert config_of(tmp_path / "out")["target_modules"] == []
    both = loaded(model, folders[0])
    both.load_adapter(tmp_path / "out", adapter_name="merged")
    both.set_adapter("merged")
    torch.testing.assert_close(output(both), output(loaded(model, tmp_path / "out")))


def test_experts_of_different_ranks_are_filled_up_and_noted(tmp_path: Path) -> None:
    model, folders = folders_of(tmp_path, "ranks")
    tensors = stored(folders[2])
    for key, tensor in tensors.items():
        if "lora_B" in key:
            tensor[:, 1::3] = 0.0  # The second expert of rank 1.
    save_file(tensors, folders[2] / "adapter_model.safetensors")
    done = merge(folders[2:], tmp_path / "out", rank=1)
    ranks = {x.name.rpartition(".")[2]: x.rank for x in done.layers}
    wanted = {f"{x}_proj[{i}]": int(i != 1) for x in ("gate_up", "down") for i in range(3)}
    assert ranks == wanted
    with PeftReader(tmp_path / "out") as reader:
        assert {x.name: x.rank for x in reader.layers.values()} == {
            x.name: x.rank for x in done.layers
        }
    assert_all_close(change(model, tmp_path / "out"), change(model, folders[2]), 1e-6)


def test_resizing_by_energy_takes_the_rank_of_each_expert(tmp_path: Path) -> None:
    _, folders = folders_of(tmp_path, "inputs first")
    done = merge(folders[:2], tmp_path / "out", energy=0.9)
    assert {layer.kind for layer in done.layers} == {"parameter"}
    assert done.share <= 0.1
    assert len({layer.rank for layer in done.layers}) > 1
    highest = max(layer.rank for layer in done.layers)
    assert config_of(tmp_path / "out")["r"] == highest


# --- refused -------------------------------------------------------------------------------------


def test_parameters_that_peft_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    model = net()
    one, other = (
        written(model, tmp_path / name, 0, r=2, target_modules=["head"], target_parameters=targets)
        for name, targets in (("a", UNKNOWN[:1]), ("b", UNKNOWN[1:]))
    )
    with pytest.raises(AdapterError) as caught:
        merge([one, other], tmp_path / "out")
    assert "experts has LoRA on experts.alpha and experts.mix+zeta(1 of 2)" in str(caught.value)
    assert "give adapters of the same target_parameters" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_module_that_is_a_layer_and_holds_a_parameter_is_refused(tmp_path: Path) -> None:
    model = net()
    one = written(model, tmp_path / "a", 0, r=2, target_modules=["head", "embed"])
    other = written(
        model, tmp_path / "b", 0, r=2, target_modules=["embed"], target_parameters=["head.weight"]
    )
    with pytest.raises(AdapterError, match="head is adapted as a layer in one adapter and by its"):
        merge([one, other], tmp_path / "out")


def test_experts_of_other_numbers_are_of_other_models(tmp_path: Path) -> None:
    one = written(mixtral(), tmp_path / "a", 0, r=2, **BOTH)
    with_four = transformers.MixtralConfig(**SIZES | {"num_local_experts": 4})
    model = transformers.AutoModelForCausalLM.from_config(with_four)
    other = written(model, tmp_path / "b", 0, r=2, **BOTH)
    with pytest.raises(AdapterError) as caught:
        merge([one, other], tmp_path / "out")
    assert f"parameter 3 × 16 × 24 in {one}, parameter 4 × 16 × 24 in {other}" in str(caught.value)


def test_patterns_for_names_that_do_not_tell_the_order_are_refused(tmp_path: Path) -> None:
    options = {"target_modules": [], "target_parameters": UNKNOWN, "r": 2}
    one = written(net(), tmp_path / "a", 0, **options, alpha_pattern={"experts.mix": 5})
    with pytest.raises(AdapterError, match="gives 'alpha, mix, zeta' of experts no one lora_alpha"):
        merge([one], tmp_path / "out")
    plain = written(net(), tmp_path / "b", 0, **options)
    tensors = stored(plain)
    for key, tensor in tensors.items():
        if key.endswith("experts.lora_B.weight"):
            tensor.zero_()
    save_file(tensors, plain / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="as PEFT's patterns do; leave compact out"):
        merge([plain], tmp_path / "out", weights=[2.0], compact=True)


def test_servers_and_training_take_layers_alone(tmp_path: Path) -> None:
    folder = written(mixtral(), tmp_path / "a", 0, r=2, **BOTH)
    with pytest.raises(AdapterError, match="is LoRA on a parameter, which vLLM does not serve"):
        merge([folder], tmp_path / "out", serve="vllm")
    with pytest.raises(
        AdapterError, match=r"holds LoRA on a bare parameter \(layer model\.layers\.0"
    ):
        load_peft(folder)
