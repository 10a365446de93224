"""Adapters of one file: read, summed, cut and written back under the keys that they came in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexlora.errors import AdapterError, ConfigError, RunError
from flexlora.formats.adapter_formats import open_adapter
from flexlora.merging import merge
from peft_folders import pair, write_folder
from reference import assert_all_close, assert_close, best, gaussian

Tensors = dict[str, Tensor]
Updates = dict[str, Tensor]
# Side keys of a layer: A, B, and its alpha.
SIDES = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "diffusers": (".lora_A.weight", ".lora_B.weight"),
    "named": (".lora_A.default.weight", ".lora_B.default.weight"),
    "bare": (".lora_A", ".lora_B"),
    "old": (".lora.down.weight", ".lora.up.weight"),
    "processor": ("_lora.down.weight", "_lora.up.weight"),
    "older": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}
LAYERS = {"kohya": ("lora_unet_down_0_to_q", "lora_te_mlp_fc1", "lora_unet_conv")}
DOTTED = ("transformer.blocks.0.attn.to_q", "transformer.blocks.0.ff", "unet.conv_in")


def layer(
    style: str,
    name: str,
    shape: tuple[int, int],
    rank: int,
    *,
    seed: int = 0,
    alpha: float | None = None,
    kernel: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensors:
    m, n = shape
    ones = tuple(1 for _ in kernel)
    a, b = SIDES[style]
    made = {
        name + a: gaussian(rank, n, *kernel, seed=seed).to(dtype),
        name + b: gaussian(m, rank, *ones, seed=seed + 50).to(dtype),
    }
    return made if alpha is None else made | {f"{name}.alpha": torch.tensor(alpha).to(torch.half)}


def read(path: Path, style: str) -> Updates:
    """Layer → its update in float64: alpha/r · B A, alpha = r where there is none."""
    tensors = load_file(path)
    a_end, b_end = SIDES[style]
    found = {}
    for key, a in tensors.items():
        if not key.endswith(a_end):
            continue
        name = key.removesuffix(a_end)
        b, rank = tensors[name + b_end], a.shape[0]
        scale = float(tensors.get(f"{name}.alpha", torch.tensor(float(rank)))) / rank
        found[name] = scale * (b.double().flatten(1) @ a.double().flatten(1))
    return found


def two(folder: Path, style: str, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Ranks mixed within and between, one above min(m, n), a layer in one of them alone."""
    q, ff, conv = LAYERS.get(style, DOTTED)
    alpha = 3.0 if style == "kohya" else None
    common: dict[str, Any] = {"alpha": alpha, "dtype": dtype}
    one = layer(style, q, (6, 5), 9, **common) | layer(style, ff, (7, 4), 2, seed=1, **common)
    other = layer(style, q, (6, 5), 3, seed=2, **common)
    other |= layer(style, conv, (4, 3), 2, seed=3, kernel=(3, 3), **common)
    for name, tensors in (("a", one), ("b", other)):
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt", "ss_note": "x"})
    return [folder / "a.safetensors", folder / "b.safetensors"]


def weighted(paths: list[Path], style: str, weights: list[float]) -> Updates:
    total: Updates = {}
    for path, weight in zip(paths, weights, strict=True):
        for name, update in read(path, style).items():
            total[name] = total.get(name, torch.zeros_like(update)) + weight * update
    return total


@pytest.mark.parametrize("style", SIDES)
def test_the_sum_comes_back_in_the_keys_that_came_in(tmp_path: Path, style: str) -> None:
    paths, out = two(tmp_path, style), tmp_path / "c.safetensors"
    done = merge(paths, out, weights=[0.7, -0.4])
    assert_all_close(read(out, style), weighted(paths, style, [0.7, -0.4]), 1e-5)
    before = {key for path in paths for key in load_file(path)}
    assert set(load_file(out)) == before
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        *("a.safetensors", "b.safetensors", "c.safetensors")
    ]
    assert (done.nbytes, done.untouched) == (out.stat().st_size, False)
    # Without an alpha, readers take α from one layer: all have one rank.
    ranks = {x.shape[0] for key, x in load_file(out).items() if key.endswith(SIDES[style][0])}
    assert (len(ranks) == 1) == (style != "kohya")
    assert done.one_rank == (None if style == "kohya" else max(ranks))


@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_it_is_cut_to_a_rank_and_resized_alone(tmp_path: Path, style: str) -> None:
    paths, out = two(tmp_path, style), tmp_path / "c.safetensors"
    merge(paths, out, rank=2)
    wanted = weighted(paths, style, [0.5, 0.5])
    for name, update in read(out, style).items():
        assert_close(update, best(wanted[name], 2), 1e-4)
    merge(paths[:1], tmp_path / "small.safetensors", rank=1, compact=True)
    for name, update in read(tmp_path / "small.safetensors", style).items():
        assert_close(update, best(read(paths[0], style)[name], 1), 1e-4)
    merge(paths[:1], tmp_path / "same.safetensors")
    assert_all_close(read(tmp_path / "same.safetensors", style), read(paths[0], style), 1e-6)


@pytest.mark.parametrize("style", ["kohya", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_half_and_eight_bits(tmp_path: Path, style: str, dtype: torch.dtype) -> None:
    paths, out = two(tmp_path, style, dtype), tmp_path / "c.safetensors"
    done = merge(paths, out)
    wide = torch.bfloat16 if dtype.itemsize == 1 else dtype
    assert done.dtype == str(wide).removeprefix("torch.")
    stored = {x.dtype for key, x in load_file(out).items() if not key.endswith("alpha")}
    assert stored == {wide}
    assert_all_close(read(out, style), weighted(paths, style, [0.5, 0.5]), 2**-6)
    for name, eps in (("float8_e4m3fn", 2**-2), ("float32", 1e-6)):
        place = tmp_path / f"{name}.safetensors"
        assert merge(paths, place, dtype=name).dtype == name
        assert_all_close(read(place, style), weighted(paths, style, [0.5, 0.5]), eps)


def test_experts_in_one_tensor_are_each_summed_and_stacked_again(tmp_path: Path) -> None:
    stem, paths = "model.layers.0.mlp.experts.gate_up_proj", []
    for name, r in (("a", 2), ("b", 3)):
        sides = {
            f"{stem}.lora_A.weight": gaussian(4, r, 6, seed=r),
            f"{stem}.lora_B.weight": gaussian(4, 8, r, seed=r + 9),
        }
        paths.append(tmp_path / f"{name}.safetensors")
        save_file(sides | layer("diffusers", "model.q", (5, 4), r, seed=r), paths[-1])
    for rank in (None, 2):
        out = tmp_path / f"{rank}.safetensors"
        done = merge(paths, out, weights=[1.0, -0.5], rank=rank)
        made, parts = load_file(out), [load_file(path) for path in paths]
        assert made[f"{stem}.lora_A.weight"].ndim == 3
        for expert in range(4):
            of = [
                x[f"{stem}.lora_B.weight"][expert].double()
                @ x[f"{stem}.lora_A.weight"][expert].double()
                for x in (*parts, made)
            ]
            wanted = of[0] - 0.5 * of[1]
            assert_close(of[2], wanted if rank is None else best(wanted, 2), 1e-4)
        assert "model.layers.0.mlp.experts.gate_up_proj[3]" in {x.name for x in done.layers}
    fewer = {key: x[:3] if "experts" in key else x for key, x in load_file(paths[1]).items()}
    save_file({key: x.contiguous() for key, x in fewer.items()}, paths[1])
    with pytest.raises(AdapterError, match=r"gate_up_proj has 3 experts in one adapter and 4 in"):
        merge(paths[::-1], tmp_path / "no.safetensors")


def test_what_diffusers_notes_of_scales_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = layer("diffusers", "transformer.x.q", (6, 5), 4) | layer(
        *("diffusers", "text_encoder.k", (6, 5), 2)
    )
    noted = {"transformer.r": 4, "transformer.lora_alpha": 8}
    noted["transformer.alpha_pattern"] = {"nothing": 2}  # type: ignore[assignment]
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(noted)})
    with open_adapter(path) as reader:
        assert {name: x.scale for name, x in reader.layers.items()} == {
            "transformer.x.q": 2.0,
            "text_encoder.k": 1.0,
        }
    merge([path], tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert "lora_adapter_metadata" not in file.metadata()
    doubled = read(path, "diffusers") | {
        "transformer.x.q": 2 * read(path, "diffusers")["transformer.x.q"]
    }
    assert_all_close(read(tmp_path / "b.safetensors", "diffusers"), doubled, 1e-6)
    for text, words in (
        ("[", "lora_adapter_metadata that is not readable"),
        ("[" * 100_000, "lora_adapter_metadata that is not readable"),
        ('[["transformer.lora_alpha", 8]]', "lora_adapter_metadata that is not readable"),
        ('{"transformer.use_dora": true}', "holds DoRA (use_dora)"),
        (
            '{"transformer.init_lora_weights": "pissa"}',
            "how it began; save it as a PEFT folder, and",
        ),
        ('{"transformer.target_parameters": ["w"]}', "holds LoRA on bare parameters (target_par"),
        ('{"transformer.lora_alpha": "much"}', "has lora_alpha 'much'"),
    ):
        save_file(tensors, path, {"lora_adapter_metadata": text})
        with pytest.raises(AdapterError) as caught:
            open_adapter(path)
        assert words in str(caught.value)


FOREIGN = {
    "dora_scale": "DoRA",
    "hada_w1_a": "LoHa",
    "lokr_w1": "LoKr",
    "lora_mid.weight": "a convolution in three parts (Tucker)",
    "lora_magnitude_vector": "DoRA",
    "vera_lambda_b": "VeRA",
    "lora_diag": "KaSA",
    "oft_blocks": "OFT",
    "xlora_classifier.weight": "X-LoRA",
    "lora_B.bias": "trained biases",
    "lora_B.default.bias": "trained biases",
    "diff_b": "trained biases",
    "diff": "whole differences",
    "weight": "tensor",
}


@pytest.mark.parametrize("ending", FOREIGN)
@pytest.mark.parametrize("style", ["kohya", "diffusers"])
def test_what_is_no_plain_pair_is_refused_by_name(tmp_path: Path, style: str, ending: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file(layer(style, "x.q", (6, 5), 2) | {f"x.q.{ending}": torch.ones(6)}, path)
    with pytest.raises(AdapterError) as caught:
        merge([path], tmp_path / "out.safetensors", rank=1)
    assert f"{path} holds {FOREIGN[ending]}" in str(caught.value)
    assert "no plain LoRA pair" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_damage_is_told(tmp_path: Path) -> None:
    path, good = tmp_path / "a.safetensors", layer("kohya", "x", (6, 5), 2, alpha=1.0)

    def told(**changes: Tensor | None) -> str:
        made = good | {key.replace("__", "."): x for key, x in changes.items()}
        save_file({key: x for key, x in made.items() if x is not None}, path)
        with pytest.raises(AdapterError) as caught, open_adapter(path) as reader:
            reader.factors("x")
        return str(caught.value)

    assert "has no B (lora_B, lora_up); save" in told(x__lora_up__weight=None)
    assert "has y.alpha of no layer" in told(y__alpha=torch.ones(()))
    assert "x.alpha in" in told(x__alpha=torch.tensor(float("nan")))
    assert "no finite number" in told(x__alpha=torch.ones(2))
    assert "NaN or infinity" in told(x__lora_up__weight=torch.full((6, 2), float("inf")))
    assert "shapes (2, 5) and (6, 3)" in told(x__lora_up__weight=torch.ones(6, 3))
    assert "is empty, of shapes (2, 5) and (0, 2)" in told(x__lora_up__weight=torch.ones(0, 2))
    assert "is stored as F32 and I8; save it as floats" in told(
        x__lora_up__weight=torch.ones(6, 2, dtype=torch.int8)
    )
    path.write_bytes(b"\x80\x04")
    with pytest.raises(AdapterError, match="truncated or no safetensors file"):
        open_adapter(path)
    with pytest.raises(
        AdapterError, match=r"is no plain file; give a \.safetensors file or a PEFT"
    ):
        open_adapter(tmp_path / "gone.safetensors")


def test_a_scale_that_the_dtype_cannot_take_in_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = layer("kohya", "x", (6, 5), 2, dtype=torch.float16)
    save_file(tensors | {"x.alpha": torch.tensor(1e6)}, path)
    with pytest.raises(
        AdapterError, match=r"would hold .* once its scale of 5e\+05 is in B, and float16"
    ):
        merge([path], tmp_path / "out.safetensors")
    assert [x.name for x in tmp_path.iterdir()] == ["a.safetensors"]
    merge([path], tmp_path / "out.safetensors", dtype="float32")


def test_the_output_fits_the_input(tmp_path: Path) -> None:
    paths = two(tmp_path, "kohya")
    folder = write_folder(tmp_path / "peft", pair("q", 6, 5, 2), r=2)
    with pytest.raises(
        ConfigError, match="the adapters are single files; name a file, like merged"
    ):
        merge(paths, tmp_path / "out", rank=2)
    with pytest.raises(ConfigError, match="the adapters are PEFT folders; name a folder"):
        merge([folder], tmp_path / "out.safetensors", rank=2)
    with pytest.raises(ConfigError, match="vLLM serves PEFT folders"):
        merge(paths, tmp_path / "out.safetensors", rank=2, serve="vllm")
    with pytest.raises(AdapterError, match="give adapters of one format"):
        merge([paths[0], folder], tmp_path / "out", rank=2)
    with pytest.raises(AdapterError, match="is the weights of a PEFT folder"):
        merge([folder / "adapter_model.safetensors"], tmp_path / "o.safetensors", rank=2)
    with pytest.raises(RunError, match="exists; choose another path or remove it"):
        merge(paths, paths[0], rank=2)


def test_the_base_that_kohya_notes_is_held_to(tmp_path: Path) -> None:
    paths = two(tmp_path, "kohya")
    for path, base in zip(paths, ("sdxl_base_v1-0", "sd_v1"), strict=True):
        save_file(load_file(path), path, {"ss_base_model_version": base})
    with pytest.raises(AdapterError, match="was made for sdxl_base_v1-0"):
        merge(paths, tmp_path / "no.safetensors")
    merge(paths, tmp_path / "c.safetensors", force=True)
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        assert file.metadata() == {"ss_base_model_version": "sdxl_base_v1-0"}
