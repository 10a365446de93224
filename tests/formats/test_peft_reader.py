"""PEFT folders opened: every tensor is accounted for, and read when it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.errors import AdapterError
from flexlora.formats.peft import load_peft
from flexlora.formats.peft_reader import PeftReader
from peft_folders import PREFIX, add, edit, pair, stored, updates, write_folder
from reference import assert_close, gaussian, product


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A layer of each kind, α by pattern, and modules saved whole."""
    tensors = {
        **pair("block.q", 6, 5, 2),
        "block.conv.lora_A.weight": gaussian(3, 4, 2, 2),
        "block.conv.lora_B.weight": gaussian(7, 3, 1, 1),
        "embed.lora_embedding_A": gaussian(2, 9),
        "embed.lora_embedding_B": gaussian(5, 2),
        "embed.base_layer.weight": gaussian(9, 5),
        "score.weight": gaussian(2, 5).half(),
    }
    return write_folder(
        tmp_path / "a",
        tensors,
        r=2,
        alpha=3,
        rank_pattern={"conv": 3},
        alpha_pattern={"conv": 6},
        modules_to_save=["score"],
        base_model_name_or_path="org/m",
        fan_in_fan_out=True,
    )


def test_layers_are_described_before_they_are_read(folder: Path) -> None:
    with PeftReader(folder) as reader:
        assert {
            name: (x.kind, x.m, x.n, x.rank, x.scale, x.a_shape, x.b_shape)
            for name, x in reader.layers.items()
        } == {
            "block.conv": ("convolution", 7, 16, 3, 2.0, (3, 4, 2, 2), (7, 3, 1, 1)),
            "block.q": ("linear", 6, 5, 2, 1.5, (2, 5), (6, 2)),
            "embed": ("embedding", 5, 9, 2, 1.5, (2, 9), (5, 2)),
        }
        assert list(reader.layers) == sorted(reader.layers)
        assert {layer.dtype for layer in reader.layers.values()} == {torch.float32}
        assert reader.whole == (f"{PREFIX}embed.base_layer.weight", f"{PREFIX}score.weight")
        assert (reader.about.base, reader.about.fan_in_fan_out) == ("org/m", True)
        assert reader.scaling == "lora"
        assert (reader.about.base_fingerprint, reader.path) == ("", folder)


def test_factors_are_matrices_and_tensors_stay_as_they_are(folder: Path) -> None:
    with PeftReader(folder) as reader:
        for name, update in updates(folder).items():
            assert reader.factors(name).shape == (reader.layers[name].m, reader.layers[name].n)
            assert_close(product(reader.factors(name)), update, 1e-12)
        for key, tensor in stored(folder).items():
            assert reader.tensor(key).dtype == tensor.dtype
            assert torch.equal(reader.tensor(key), tensor)


def test_a_pair_of_two_dtypes_has_the_wider(tmp_path: Path) -> None:
    tensors = pair("x", 4, 4, 2, dtype=torch.bfloat16)
    tensors["x.lora_A.weight"] = tensors["x.lora_A.weight"].half()
    with PeftReader(write_folder(tmp_path / "a", tensors, r=2)) as reader:
        assert reader.layers["x"].dtype == torch.float32
        assert reader.factors("x").a.dtype == torch.float16
        assert reader.factors("x").b.dtype == torch.bfloat16


def test_rank_0_as_it_was_saved(tmp_path: Path) -> None:
    """Noted and all zeros: rank 0. Noted, but trained since: what it holds now."""
    zeros = {"x.lora_A.weight": torch.zeros(1, 4), "x.lora_B.weight": torch.zeros(3, 1)}
    folder = write_folder(tmp_path / "a", zeros, r=1)
    note = {"ranks": {"x": 0}, "scales": {}, "base_fingerprint": "float32:ab"}
    (folder / "flexlora.json").write_text(json.dumps(note))
    with PeftReader(folder) as reader:
        assert (reader.layers["x"].rank, reader.factors("x").rank) == (0, 0)
        assert reader.about.base_fingerprint == "float32:ab"
    add(folder, **{f"{PREFIX}x.lora_B.weight": torch.ones(3, 1)})
    with PeftReader(folder) as reader:
        assert (reader.layers["x"].rank, reader.factors("x").rank) == (1, 1)


def test_after_closing_nothing_is_read(folder: Path) -> None:
    reader = PeftReader(folder)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.factors("embed")


def test_a_folder_that_cannot_be_opened_is_let_go_of(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Python warns of a file that is still open when it is collected."""
    import gc

    edit(folder, r=5)
    with pytest.raises(AdapterError, match="has rank 2, but adapter_config"):
        PeftReader(folder)
    gc.collect()
    assert [w for w in recwarn if w.category is ResourceWarning] == []


ODD: list[tuple[dict[str, torch.Tensor], dict[str, Any], str]] = [
    (
        {"x.lora_A.weight": gaussian(4, 6, 3), "x.lora_B.weight": gaussian(8, 2, 1)},
        {"r": 4},
        "LoRA on a grouped convolution, whose update is no product of two matrices; leave that",
    ),
    (
        {"x.lora_A.weight": gaussian(2, 6, 3), "x.lora_B.weight": gaussian(8, 2, 3)},
        {"r": 2},
        "only linear, embedding and convolution layers can be read",
    ),
    (
        {"x.lora_A.weight": gaussian(2, 6), "x.lora_B.weight": gaussian(8, 2, 1)},
        {"r": 2},
        "shapes (2, 6) and (8, 2, 1), expected (r, n) and (m, r)",
    ),
    (
        {"x.lora_embedding_A": gaussian(2, 6), "x.lora_embedding_B": gaussian(8, 3)},
        {"r": 2},
        "shapes (2, 6) and (8, 3), expected (r, n) and (m, r)",
    ),
    (
        pair("x", 4, 4, 2) | {"x.lora_embedding_A": gaussian(2, 4)},
        {"r": 2},
        "holds layer x twice; save one adapter only",
    ),
    (
        pair("x", 4, 4, 2) | {"head.weight": gaussian(2, 2)},
        {"r": 2, "modules_to_save": ["hea", "ead", "head.weight", "x"]},
        f"holds tensor '{PREFIX}head.weight', which is no plain LoRA pair",
    ),
    (pair("x", 4, 4, 2), {"r": 2, "modules_to_save": {"head": 1}}, "make it a list of names"),
]


@pytest.mark.parametrize(("tensors", "config", "message"), ODD)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], message: str
) -> None:
    folder = write_folder(tmp_path / "a", tensors, **config)
    with pytest.raises(AdapterError) as caught:
        PeftReader(folder)
    assert message in str(caught.value)


def test_a_rank_that_may_be_saved_several_ways_is_one_layer(tmp_path: Path) -> None:
    """With and without the prefix, with and without an adapter's name."""
    from safetensors.torch import save_file

    given = pair("x", 4, 5, 2)
    folder = write_folder(tmp_path / "a", given, r=2)
    for a_key in ("x.lora_A.weight", f"{PREFIX}x.lora_A.default.weight", "x.lora_A.some.weight"):
        tensors = {a_key: given["x.lora_A.weight"], "x.lora_B.weight": given["x.lora_B.weight"]}
        save_file(tensors, folder / "adapter_model.safetensors")
        with PeftReader(folder) as reader:
            assert list(reader.layers) == ["x"]
            assert torch.equal(reader.factors("x").a, given["x.lora_A.weight"])


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ((), "holds whole modules saved beside LoRA"),
        (("embed.base_layer.weight", "score.weight"), "LoRA on a convolution (layer block.conv"),
        (
            *[("embed.base_layer.weight", "score.weight", "block.conv.lora_A.weight")],
            "layer block.conv in",
        ),
    ],
)
def test_the_training_door_takes_linear_layers_alone(
    folder: Path, taken: tuple[str, ...], message: str
) -> None:
    if taken:
        edit(add(folder, **{PREFIX + key: None for key in taken}), modules_to_save=None)
    with pytest.raises(AdapterError) as caught:
        load_peft(folder)
    assert message in str(caught.value)


def test_the_training_door_takes_no_embedding(folder: Path) -> None:
    taken = ("embed.base_layer.weight", "score.weight", "block.conv.lora_A.weight")
    add(folder, **{PREFIX + key: None for key in (*taken, "block.conv.lora_B.weight")})
    edit(folder, modules_to_save=None)
    with pytest.raises(AdapterError, match="LoRA on an embedding"):
        load_peft(folder)
    add(folder, **{f"{PREFIX}embed.lora_embedding_{x}": None for x in "AB"})
    assert list(load_peft(folder)) == ["block.q"]


WRAPPED = [
    "_orig_mod.base_model.model.",
    "base_model.model._orig_mod.",
    "module.base_model.model.",
    "base_model.model.module.",
    "base_model.model.base_model.model.",
    "module._orig_mod.base_model.model.base_model.model.",
    "_fsdp_wrapped_module.base_model.model.",
    "module.",
    "",
]


@pytest.mark.parametrize("before", WRAPPED)
@pytest.mark.parametrize(
    "within", ["", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped"]
)
def test_known_wrappers_are_no_part_of_a_name(tmp_path: Path, before: str, within: str) -> None:
    """torch.compile, DDP, FSDP, activation checkpointing, and PEFT within PEFT."""
    from safetensors.torch import save_file

    within = f"{within}_module." if within.endswith("wrapped") else within
    given = {f"layers.0.{key}": x for key, x in pair("q", 4, 5, 2).items()}
    folder = write_folder(tmp_path / "a", given, r=2, alpha_pattern={"layers.0.q": 6})
    tensors = {f"{before}layers.0.{within}{key[9:]}": x for key, x in given.items()}
    tensors[f"{before}model.{within}embed_tokens.weight"] = gaussian(9, 5)
    save_file(tensors, folder / "adapter_model.safetensors")
    with PeftReader(folder) as reader:
        assert list(reader.layers) == ["layers.0.q"]
        assert reader.factors("layers.0.q").scale == 3.0
        assert reader.whole == (f"{PREFIX}model.embed_tokens.weight",)
        assert torch.equal(reader.tensor(reader.whole[0]), gaussian(9, 5))


def test_what_begins_like_a_wrapper_is_none(tmp_path: Path) -> None:
    names = ("modules.0.q", "layers.module.q", "my_orig_mod.q", "base_model.q")
    given = {key: x for name in names for key, x in pair(name, 4, 5, 2).items()}
    with PeftReader(write_folder(tmp_path / "a", given, r=2)) as reader:
        assert list(reader.layers) == sorted(names)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens",
        "lm_head",
        "transformer.wte",
        "gpt_neox.embed_in",
        "backbone.embeddings",
    ],
)
def test_a_vocabulary_that_was_resized_stands_beside_lora(tmp_path: Path, name: str) -> None:
    """PEFT saves it whole, and says so nowhere in the config."""
    tensors = pair("x", 4, 5, 2) | {f"{name}.weight": gaussian(12, 5)}
    folder = write_folder(tmp_path / "a", tensors, r=2)
    with PeftReader(folder) as reader:
        assert (list(reader.layers), reader.whole) == (["x"], (f"{PREFIX}{name}.weight",))
    with pytest.raises(AdapterError) as caught:
        load_peft(folder)
    assert f"{name}.weight whole, as PEFT saves embeddings after a voc" in str(caught.value)
    assert "save_pretrained(…, save_embedding_layers=False)" in str(caught.value)


def test_one_tensor_under_two_names_is_not_dropped(tmp_path: Path) -> None:
    tensors = pair("x", 4, 5, 2) | {
        "lm_head.weight": gaussian(3, 5),
        "_orig_mod.lm_head.weight": gaussian(3, 5, seed=1),
    }
    with pytest.raises(AdapterError, match=r"holds lm_head\.weight twice"):
        PeftReader(write_folder(tmp_path / "a", tensors, r=2))
