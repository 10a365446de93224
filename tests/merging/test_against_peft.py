"""Merging, held to PEFT itself: its folders go in, and what it makes of ours is Σ w ΔW."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from flexlora.errors import AdapterError
from flexlora.formats.peft_config import read_config
from flexlora.merging import merge
from peft_folders import stored, updates
from peft_models import ATTENTION, change, llama, loaded, output, with_updates, written
from reference import assert_all_close, assert_close, best


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


class Net(nn.Module):
    """Each kind of layer that LoRA adapts, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 12)
        self.narrow = nn.Conv1d(12, 10, 3, padding=1)
        self.image = nn.Conv2d(10, 8, (3, 1), stride=(2, 1), padding=(1, 0))
        self.point = nn.Conv2d(8, 6, 1)
        self.solid = nn.Conv3d(6, 5, (1, 2, 2), padding=(0, 1, 1))
        self.head = nn.Linear(5, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.narrow(self.embed(tokens).transpose(1, 2)).tanh()
        x = self.point(self.image(x[..., None]).tanh()).tanh()
        return self.head(self.solid(x[..., None]).tanh().flatten(2).transpose(1, 2))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def weighted(tensors: Iterable[Tensor]) -> Tensor:
    parts = (w * x for w, x in zip(WEIGHTS, tensors, strict=True))
    return sum(parts, torch.zeros(()))


LLAMA: dict[str, list[dict[str, Any]]] = {
    "one rank": [{"r": 4, "lora_alpha": 8, "target_modules": ATTENTION}] * 3,
    "mixed ranks": [
        {"r": 2, "lora_alpha": 16, "target_modules": ATTENTION},
        {"r": 7, "lora_alpha": 3, "target_modules": ATTENTION},
        {"r": 1, "lora_alpha": 1, "target_modules": ATTENTION},
    ],
    "other layers": [
        {"r": 3, "target_modules": ["q_proj"]},
        {"r": 2, "target_modules": "all-linear"},
        {"r": 2, "target_modules": ["down_proj"], "layers_to_transform": [1]},
    ],
    "rsLoRA": [
        {"r": r, "lora_alpha": 5, "use_rslora": True, "target_modules": ATTENTION}
        for r in (4, 4, 3)
    ],
    "rsLoRA and not": [
        {"r": 4, "lora_alpha": 5, "use_rslora": True, "target_modules": ATTENTION},
        {"r": 4, "lora_alpha": 5, "target_modules": ATTENTION},
        {"r": 8, "lora_alpha": 5, "use_rslora": True, "target_modules": ATTENTION},
    ],
    "patterns": [
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": [*ATTENTION, "down_proj"],
            "rank_pattern": {"down_proj": 2, "layers.1.self_attn.q_proj": 3},
            "alpha_pattern": {r"layers\.0\..*": 5, "v_proj": 1},
        },
        {"r": 2, "target_modules": ATTENTION, "use_rslora": True, "alpha_pattern": {"q_proj": 3}},
        {"r": 5, "target_modules": ["down_proj"], "rank_pattern": {r".*\.1\.mlp\.\w+": 1}},
    ],
    "embeddings": [
        {"r": 3, "lora_alpha": 5, "target_modules": ["embed_tokens", "q_proj"]},
        {"r": 2, "lora_alpha": 7, "target_modules": ["embed_tokens"], "use_rslora": True},
        {"r": 2, "target_modules": ["q_proj"]},
    ],
}
CASES = (
    [("llama", name, configs) for name, configs in LLAMA.items()]
    + [("gpt2", "Conv1D", [{"r": r, "target_modules": ["c_attn", "c_proj"]} for r in (2, 5, 3)])]
    + [
        (
            "net",
            "every kind",
            [
                {"r": 4, "target_modules": ["embed", "narrow", "image", "point", "solid", "head"]},
                {"r": 3, "target_modules": ["image", "solid", "point"], "use_rslora": True},
                {
                    "r": 2,
                    "lora_alpha": 5,
                    "target_modules": ["narrow", "image", "head", "embed"],
                    "rank_pattern": {"image": 5},
                },
            ],
        )
    ]
)
MODELS = {"llama": llama, "gpt2": gpt2, "net": net}
WEIGHTS = [0.5, -0.3, 1.2]


def peft_said(recwarn: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in recwarn if f"{Path(peft.__file__).parent}" in w.filename]


@pytest.mark.parametrize(("family", "case", "configs"), CASES)
def test_peft_computes_the_base_plus_the_weighted_sum(
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    family: str,
    case: str,
    configs: list[dict[str, Any]],
) -> None:
    model = MODELS[family]()
    folders = [
        written(model, tmp_path / f"{case}{i}", i, **config) for i, config in enumerate(configs)
    ]
    parts = [change(model, folder) for folder in folders]
    merge(folders, tmp_path / "out", weights=WEIGHTS, rank="full")
    recwarn.clear()
    got = change(model, tmp_path / "out")
    assert peft_said(recwarn) == []
    wanted = {name: weighted(part[name] for part in parts) for name in got}
    assert any(bool(x.any()) for x in wanted.values())
    assert_all_close(got, wanted, 1e-6)
    expected = output(with_updates(model, wanted))
    assert float((expected - output(copy.deepcopy(model).double())).norm()) > 1e-2
    torch.testing.assert_close(output(loaded(model, tmp_path / "out")), expected)


@pytest.mark.parametrize(("family", "case", "configs"), CASES)
def test_peft_computes_the_best_of_a_rank(
    tmp_path: Path, family: str, case: str, configs: list[dict[str, Any]]
) -> None:
    model = MODELS[family]()
    folders = [
        written(model, tmp_path / f"{case}{i}", i, **config) for i, config in enumerate(configs)
    ]
    parts = [change(model, folder) for folder in folders]
    done = merge(folders, tmp_path / "out", weights=WEIGHTS, rank=2)
    assert {layer.rank for layer in done.layers} <= {1, 2}
    got = change(model, tmp_path / "out")
    adapted = {f"{layer.name}.weight" for layer in done.layers}
    for name, found in got.items():
        wanted = weighted(part[name] for part in parts)
        if name in adapted:
            assert_close(found.flatten(1), best(wanted.flatten(1), 2), 1e-5)
        else:
            assert not wanted.any()
            assert not found.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_a_half_precision_model(tmp_path: Path, dtype: torch.dtype) -> None:
    """PEFT keeps such adapters in float32 unless it is told not to."""
    model = llama().to(dtype)
    folders = []
    for i, rank in enumerate((2, 3)):
        torch.manual_seed(i)
        config = peft.LoraConfig(r=rank, init_lora_weights=False, target_modules=ATTENTION)
        adapted = peft.get_peft_model(copy.deepcopy(model), config, autocast_adapter_dtype=False)
        adapted.save_pretrained(tmp_path / f"{i}")
        folders.append(tmp_path / f"{i}")
    assert {x.dtype for x in stored(folders[0]).values()} == {dtype}
    parts = [change(model, folder) for folder in folders]
    for name, limit in (("float32", 1e-6), (None, 2 * torch.finfo(dtype).eps)):
        out = tmp_path / f"out-{name}"
        merge(folders, out, weights=[1.0, 1.0], rank="full", dtype=name)
        wanted = {key: parts[0][key] + parts[1][key] for key in parts[0]}
        assert_all_close(change(model, out), wanted, limit)


def test_a_classification_head_saved_whole_is_carried_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    folders = [
        written(model, tmp_path / f"{i}", i, r=i + 1, target_modules=ATTENTION, task_type="SEQ_CLS")
        for i in range(2)
    ]
    merge(folders, tmp_path / "out", rank="full")
    assert torch.equal(
        stored(tmp_path / "out")["base_model.model.score.weight"], model.score.weight
    )
    got = loaded(model, tmp_path / "out")
    assert got.peft_config["default"].task_type == "SEQ_CLS"
    parts = [change(model, folder) for folder in folders]
    wanted = {name: 0.5 * (parts[0][name] + parts[1][name]) for name in parts[0]}
    torch.testing.assert_close(output(got), output(with_updates(model, wanted)))


# --- add_weighted_adapter(combination_type="svd") ------------------------------------------------

RANK = 4


def by_peft(model: nn.Module, folders: list[Path], weights: list[float], rank: int) -> Tensor:
    """The output after PEFT's own merge by SVD."""
    adapted = peft.PeftModel.from_pretrained(
        copy.deepcopy(model).double(), folders[0], adapter_name="0"
    )
    names = [f"{i}" for i in range(len(folders))]
    for name, folder in zip(names[1:], folders[1:], strict=True):
        adapted.load_adapter(folder, adapter_name=name)
    adapted.add_weighted_adapter(names, weights, "merged", combination_type="svd", svd_rank=rank)
    adapted.set_adapter("merged")
    return output(adapted.eval())


@pytest.mark.parametrize("rank", [2, 6])
def test_plain_lora_is_what_peft_makes_of_it(tmp_path: Path, rank: int) -> None:
    model = llama()
    folders = [
        written(model, tmp_path / f"{i}", i, r=r, lora_alpha=9, target_modules=ATTENTION)
        for i, r in enumerate((4, 2))
    ]
    merge(folders, tmp_path / "out", weights=[0.7, -0.4], rank=rank)
    ours = output(loaded(model, tmp_path / "out"))
    torch.testing.assert_close(ours, by_peft(model, folders, [0.7, -0.4], rank), atol=1e-5, rtol=0)


def test_rslora_comes_out_of_peft_too_large_by_the_root_of_the_rank(tmp_path: Path) -> None:
    """PEFT keeps rsLoRA on and writes α = r, so its scale is √r where it has to be 1."""
    model = llama()
    common = {"r": RANK, "lora_alpha": 3, "use_rslora": True, "target_modules": ["o_proj"]}
    folders = [written(model, tmp_path / f"{i}", i, **common) for i in range(2)]
    parts = [change(model, folder) for folder in folders]
    wanted = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    right = output(with_updates(model, wanted))
    grown = {name: math.sqrt(2 * RANK) * x for name, x in wanted.items()}
    theirs = by_peft(model, folders, [1.0, 1.0], 2 * RANK)
    torch.testing.assert_close(theirs, output(with_updates(model, grown)), atol=1e-6, rtol=0)
    assert float((theirs - right).norm()) > 0.1 * float(right.norm())
    merge(folders, tmp_path / "out", weights=[1.0, 1.0], rank=2 * RANK)
    torch.testing.assert_close(output(loaded(model, tmp_path / "out")), right, atol=1e-6, rtol=0)


VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "LoRA bias": ({"lora_bias": True}, "holds LoRA biases (lora_bias)"),
    "DoRA": ({"use_dora": True}, "holds DoRA (use_dora)"),
    "KaSA": ({"kasa_config": peft.KasaConfig()}, "holds KaSA (kasa_config)"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_that_peft_merges_wrongly_are_refused(tmp_path: Path, name: str) -> None:
    """One adapter of weight 1 at its full rank has to be itself. Plain LoRA is, in PEFT too."""
    options, message = VARIANTS[name]
    # Only GPT-2's layers have the bias that LoRA's own bias is added to.
    model, target = (gpt2(), "c_attn") if name == "LoRA bias" else (llama(), "o_proj")
    common = {"r": RANK, "target_modules": [target], "init_lora_weights": True}
    plain = written(model, tmp_path / "plain", 0, **common)
    variant = written(model, tmp_path / "variant", 0, **common, **options)

    def away(folder: Path) -> float:
        right = output(loaded(model, folder))
        return float((by_peft(model, [folder], [1.0], RANK) - right).abs().max())

    assert away(plain) < 1e-6
    assert away(variant) > 1e-3
    merge([plain], tmp_path / "out", rank=RANK)
    torch.testing.assert_close(
        output(loaded(model, tmp_path / "out")), output(loaded(model, plain)), atol=1e-6, rtol=0
    )
    with pytest.raises(AdapterError) as caught:
        merge([variant], tmp_path / "none", rank=RANK)
    assert message in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_what_velora_keeps_for_training_is_left_out(tmp_path: Path) -> None:
    """Its pairs compute what plain ones do."""
    options = {"target_modules": ATTENTION, "velora_config": peft.VeloraConfig(num_groups=4)}
    folder = written(llama(), tmp_path / "a", 0, r=RANK, **options)
    assert any("velora" in key for key in stored(folder))
    merge([folder], tmp_path / "out", compact=True)
    assert not any("velora" in key for key in stored(tmp_path / "out"))
    got, wanted = (output(loaded(llama(), x)) for x in (tmp_path / "out", folder))
    assert float((wanted - output(llama().double())).abs().max()) > 1e-3
    torch.testing.assert_close(got, wanted)


def test_grouped_convolutions_are_refused(tmp_path: Path) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    folder = written(Grouped(), tmp_path / "a", 0, r=4, target_modules=["conv"])
    with pytest.raises(AdapterError, match="LoRA on a grouped convolution, whose update is no"):
        merge([folder], tmp_path / "out", rank=2)


# What these options of PEFT's LoRA config say changes nothing of what the saved pairs compute.
HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out"),
    *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core"),
    *("loftq_config", "corda_config", "lora_ga_config", "eva_config"),  # Of how training begins:
    # what changes the base model is told by init_lora_weights, which is read.
    *("velora_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("bias", "modules_to_save", "init_lora_weights", "target_parameters"),
}


def test_every_option_of_peft_is_read_refused_or_harmless(tmp_path: Path) -> None:
    """A new option in a later PEFT makes this fail, so that somebody looks at what it does."""
    folder = tmp_path / "a"
    folder.mkdir()
    for field in dataclasses.fields(peft.LoraConfig):
        if field.name in HARMLESS | READ:
            continue
        text = f'{{"peft_type": "LORA", "{field.name}": {{"some": 1}}}}'
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(AdapterError, match=rf"holds .* \({field.name}\), which is no plain"):
            read_config(folder)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_2", "olora"])
def test_an_init_that_changes_the_base_is_refused(tmp_path: Path, init: str) -> None:
    folder = written(llama(), tmp_path / "a", 0, init_lora_weights=init, target_modules=ATTENTION)
    with pytest.raises(AdapterError, match=f"was initialised by '{init}', which changes the base"):
        merge([folder], tmp_path / "out", rank=2)


def test_the_tests_own_reading_of_a_folder_is_pefts(tmp_path: Path) -> None:
    """`updates`, which the other tests compare with, is not PEFT's code."""
    for i, config in enumerate(LLAMA["patterns"] + LLAMA["embeddings"]):
        model = llama()
        folder = written(model, tmp_path / f"{i}", i, **config)
        theirs = {name: x for name, x in change(model, folder).items() if x.any()}
        ours = {f"{name}.weight": x for name, x in updates(folder).items()}
        embeddings = {name: x.T for name, x in ours.items() if "embed_tokens" in name}
        assert_all_close(theirs, ours | embeddings, 1e-6)
