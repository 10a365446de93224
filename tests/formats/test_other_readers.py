"""What vLLM and llama.cpp make of what we write, by their own rules; neither is imported.

vLLM (`vllm/lora/peft_helper.py`, `lora_model.py`): r and lora_alpha of the config, √r with
use_rslora; rank_pattern and alpha_pattern are passed over; r is at most `max_lora_rank`; keys end
in lora_A.weight, lora_B.weight, lora_embedding_A or lora_embedding_B, or in the base model's own
embeddings, which are skipped; modules_to_save, biases and DoRA are errors.
llama.cpp (`convert_lora_to_gguf.py`): lora_alpha of the config over the rank that the tensor has,
the rest passed over, use_rslora too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors
from flexlora.errors import AdapterError, ConfigError, RankError
from flexlora.formats.peft import load_peft, save_peft
from flexlora.merging import merge
from peft_folders import PREFIX, config_of, pair, stored, updates, weighted, write_folder
from reference import assert_all_close, gaussian, product

Updates = dict[str, Tensor]
VLLM_RANKS = {1, 8, 16, 32, 64, 128, 256, 320, 512}


def pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored(folder).items():
        parts = key.removeprefix(PREFIX).split(".")
        if key.endswith(("embed_tokens.base_layer.weight", "lm_head.base_layer.weight")):
            continue
        linear = parts[-1] == "weight" and parts[-2] in ("lora_A", "lora_B")
        assert linear or parts[-1] in ("lora_embedding_A", "lora_embedding_B"), key
        name, side = (".".join(parts[:-2]), parts[-2]) if linear else (".".join(parts[:-1]), key)
        found.setdefault(name, {})[side[-1]] = tensor.double()
    return {name: (sides["A"], sides["B"]) for name, sides in found.items()}


def by_vllm(folder: Path, max_lora_rank: int = 512) -> Updates:
    config = config_of(folder)
    assert not config.get("modules_to_save")
    assert not config.get("use_dora")
    assert config.get("bias", "none") == "none"
    assert config["target_modules"]
    assert config["r"] <= max_lora_rank
    root = 0.5 if config.get("use_rslora") else 1.0
    scale = config["lora_alpha"] / config["r"] ** root
    for a, b in pairs(folder).values():
        assert a.shape[0] == b.shape[1] <= max_lora_rank
    return {name: scale * (b @ a) for name, (a, b) in pairs(folder).items()}


def by_llama_cpp(folder: Path) -> Updates:
    alpha = config_of(folder)["lora_alpha"]
    return {name: alpha / a.shape[0] * (b @ a) for name, (a, b) in pairs(folder).items()}


def as_alpha_is_r(folder: Path) -> Updates:
    """A reader that knows no α at all, as many small scripts are."""
    return {name: b @ a for name, (a, b) in pairs(folder).items()}


READERS = [by_vllm, by_llama_cpp, as_alpha_is_r, updates]
Reader = Callable[[Path], Updates]


def mixed() -> Adapter:
    """Ranks, scales and layers of every kind of difference, rank 0 and a rank above min(m, n)."""
    of = {"q": (6, 5, 3, 2.0), "k": (6, 5, 1, 16.0), "v": (4, 5, 0, 1.5), "down": (3, 9, 7, 0.3)}
    layers = {
        f"model.layers.0.{name}_proj": Factors(gaussian(m, r), gaussian(r, n, seed=1), scale)
        for name, (m, n, r, scale) in of.items()
    }
    return Adapter(layers, "org/m")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("serve", [None, "vllm"])
def test_every_reader_reads_an_export_alike(
    tmp_path: Path, reader: Reader, serve: str | None
) -> None:
    adapter = mixed()
    save_peft(adapter, tmp_path / "out", serve=serve)
    wanted = {name: product(factors) for name, factors in adapter.items()}
    assert_all_close(reader(tmp_path / "out"), wanted, 1e-6)
    config = config_of(tmp_path / "out")
    rank = 7 if serve is None else 8
    assert (config["r"], config["lora_alpha"]) == (rank, rank)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert load_peft(tmp_path / "out").ranks == adapter.ranks


def test_the_compact_form_is_what_others_read_wrongly(tmp_path: Path) -> None:
    """Else these readers of ours would show nothing."""
    adapter = mixed()
    save_peft(adapter, tmp_path / "out", compact=True)
    wanted = {name: product(factors) for name, factors in adapter.items()}
    assert_all_close(updates(tmp_path / "out"), wanted, 1e-6)
    for reader in (by_vllm, by_llama_cpp, as_alpha_is_r):
        got = reader(tmp_path / "out")
        assert any(not torch.allclose(got[name], x, rtol=0.1) for name, x in wanted.items())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("options", [{"rank": "full"}, {"rank": 3}, {"energy": 0.99}])
@pytest.mark.parametrize("serve", [None, "vllm"])
def test_every_reader_reads_a_merge_alike(
    tmp_path: Path, reader: Reader, options: dict[str, Any], serve: str | None
) -> None:
    a = pair("x.q", 12, 10, 4) | pair("x.down", 9, 14, 4, 1)
    b = pair("x.q", 12, 10, 2, 2) | {
        "model.embed_tokens.lora_embedding_A": gaussian(2, 7),
        "model.embed_tokens.lora_embedding_B": gaussian(5, 2),
        "model.embed_tokens.base_layer.weight": gaussian(7, 5),
    }
    folders = [
        write_folder(tmp_path / "a", a, r=4, alpha=16, alpha_pattern={"q": 3}),
        write_folder(tmp_path / "b", b, r=2, alpha=7, use_rslora=True),
    ]
    done = merge(folders, tmp_path / "out", serve=serve, **options)
    merge(folders, tmp_path / "compact", compact=True, **options)
    assert_all_close(reader(tmp_path / "out"), updates(tmp_path / "compact"), 1e-6)
    if options == {"rank": "full"}:
        assert_all_close(reader(tmp_path / "out"), weighted(folders, [0.5, 0.5]), 1e-6)
    assert done.one_rank == config_of(tmp_path / "out")["r"]
    assert serve is None or done.one_rank in VLLM_RANKS


@pytest.mark.parametrize("reader", READERS)
def test_one_adapter_of_mixed_ranks_is_made_readable(tmp_path: Path, reader: Reader) -> None:
    """What PEFT wrote with patterns and rsLoRA, merged alone: nothing is decomposed."""
    tensors = pair("x.q", 12, 10, 4) | pair("x.down", 9, 14, 2, 1)
    a = write_folder(
        tmp_path / "a", tensors, r=4, alpha=9, use_rslora=True, rank_pattern={"down": 2}
    )
    done = merge([a], tmp_path / "out", rank="full")
    assert not done.untouched
    assert_all_close(reader(tmp_path / "out"), updates(a), 1e-6)
    written = stored(tmp_path / "out")
    assert torch.equal(written[f"{PREFIX}x.q.lora_A.weight"], tensors["x.q.lora_A.weight"])


@pytest.mark.parametrize(("rank", "served"), [(1, 8), (8, 8), (9, 16), (257, 320), (321, 512)])
def test_the_rank_is_rounded_up_to_one_that_vllm_supports(
    tmp_path: Path, rank: int, served: int
) -> None:
    adapter = Adapter({"q": Factors(gaussian(3, rank), gaussian(rank, 2), 0.5)})
    save_peft(adapter, tmp_path / "out", serve="vllm")
    assert config_of(tmp_path / "out")["r"] == served
    assert served in VLLM_RANKS
    assert_all_close(by_vllm(tmp_path / "out", served), {"q": product(adapter["q"])}, 1e-5)


def test_what_vllm_does_not_serve_is_refused(tmp_path: Path) -> None:
    def refused(tensors: dict[str, Tensor], words: str, **config: Any) -> None:
        folder = write_folder(tmp_path / f"{len(list(tmp_path.iterdir()))}", tensors, r=2, **config)
        merge([folder], tmp_path / "fine", rank="full")
        (tmp_path / "fine").rename(tmp_path / f"fine{len(list(tmp_path.iterdir()))}")
        with pytest.raises(AdapterError) as caught:
            merge([folder], tmp_path / "out", rank="full", serve="vllm")
        assert words in str(caught.value)
        assert not (tmp_path / "out").exists()

    q = pair("q", 4, 5, 2)
    conv = {"c.lora_A.weight": gaussian(2, 4, 3), "c.lora_B.weight": gaussian(6, 2, 1)}
    refused(conv, "layer c is LoRA on a convolution, which vLLM does not serve")
    head = {"score.weight": gaussian(2, 5)}
    words = "score is saved whole beside LoRA, which vLLM does not serve"
    refused(q | head, words, modules_to_save=["score"])
    words = "lm_head.weight is saved whole beside LoRA, which vLLM does not serve"
    refused(q | {"lm_head.weight": gaussian(9, 5)}, words)
    wide = Adapter({"q": Factors(gaussian(3, 513), gaussian(513, 2), 0.5)})
    with pytest.raises(RankError, match="rank 513 is above 512, the highest that vLLM serves"):
        save_peft(wide, tmp_path / "out", serve="vllm")
    with pytest.raises(ConfigError, match="give just one of compact and serve"):
        save_peft(wide, tmp_path / "out", serve="vllm", compact=True)
    with pytest.raises(ConfigError, match="serve is 'vlm'; did you mean 'vllm'"):
        save_peft(wide, tmp_path / "out", serve="vlm")
    assert not (tmp_path / "out").exists()


def test_a_scale_that_the_dtype_cannot_take_in_is_said(tmp_path: Path) -> None:
    b, a = torch.full((3, 2), 100.0).half(), torch.full((2, 4), 1e-3).half()
    adapter = Adapter({"q": Factors(b, a, 1e4)})
    with pytest.raises(AdapterError) as caught:
        save_peft(adapter, tmp_path / "out")
    words = (
        "layer q of",
        "would hold 1e+06 once its scale of 1e+04 is in B, and float16 holds 65504 at most; "
        "write it as bfloat16 or float32, or write it compact",
    )
    assert all(x in str(caught.value) for x in words)
    save_peft(adapter, tmp_path / "out", compact=True)
    assert load_peft(tmp_path / "out")["q"].scale == 1e4


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_reader_reads_the_dtype_that_was_asked_for(
    tmp_path: Path, reader: Reader, dtype: str
) -> None:
    adapter = mixed()
    save_peft(adapter, tmp_path / "out", dtype=dtype)
    assert {x.dtype for x in stored(tmp_path / "out").values()} == {getattr(torch, dtype)}
    wanted = {name: product(factors) for name, factors in adapter.items()}
    assert_all_close(reader(tmp_path / "out"), wanted, {"float32": 1e-6}.get(dtype, 2e-2))
    assert load_peft(tmp_path / "out").ranks == adapter.ranks


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_value_that_the_dtype_cannot_hold_is_named(
    tmp_path: Path, side: str, compact: bool
) -> None:
    large = {"a": torch.ones(2, 4), "b": torch.ones(3, 2)}
    large[side][1, 1] = -70_000.0
    adapter = Adapter(
        {"q": Factors(torch.ones(2, 1), torch.ones(1, 2), 1.0), "v": Factors(**large, scale=1.0)}
    )
    out = tmp_path / "out"
    with pytest.raises(AdapterError) as caught:
        save_peft(adapter, out, dtype="float16", compact=compact)
    assert str(caught.value) == (
        f"layer v of {out} would hold 7e+04, and float16 holds 65504 at most; write it as bfloat16 "
        "or float32"
    )
    assert list(tmp_path.iterdir()) == []
    save_peft(adapter, out, dtype="bfloat16", compact=compact)
    assert load_peft(out)["v"].b.dtype == torch.bfloat16


def test_the_scale_and_the_dtype_are_one_rounding(tmp_path: Path) -> None:
    adapter = Adapter({"q": Factors(gaussian(64, 8), gaussian(8, 64, seed=1), 1.7)})
    save_peft(adapter, tmp_path / "out", dtype="bfloat16")
    exact = (adapter["q"].b.double() * 1.7).to(torch.bfloat16)
    assert torch.equal(load_peft(tmp_path / "out")["q"].b, exact)


def test_an_unknown_dtype_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is 'float61'; did you mean 'float16'"):
        save_peft(mixed(), tmp_path / "out", dtype="float61")
    assert list(tmp_path.iterdir()) == []
