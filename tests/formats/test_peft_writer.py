"""PEFT folders written layer by layer: what is read from them is what was given."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexlora.adapters import About, Factors
from flexlora.errors import RunError
from flexlora.formats.peft_form import Form
from flexlora.formats.peft_keys import Kind, pair_keys
from flexlora.formats.peft_reader import PeftReader
from flexlora.formats.peft_writer import peft_folder
from peft_folders import PREFIX, config_of, stored, updates
from reference import assert_close, gaussian, product

KERNEL: dict[Kind, tuple[int, ...]] = {"linear": (), "embedding": (), "convolution": (3, 2, 2)}


def factors(rank: int, scale: float, dtype: torch.dtype = torch.float32, seed: int = 0) -> Factors:
    b, a = gaussian(5, rank, seed=seed), gaussian(rank, 12, seed=seed + 1)
    return Factors(b.to(dtype), a.to(dtype), scale)


def test_keys_are_those_of_peft() -> None:
    assert pair_keys("x") == (f"{PREFIX}x.lora_A.weight", f"{PREFIX}x.lora_B.weight")
    assert pair_keys("x", "convolution") == pair_keys("x", "linear")
    assert pair_keys("x", "embedding") == (
        f"{PREFIX}x.lora_embedding_A",
        f"{PREFIX}x.lora_embedding_B",
    )


scales = st.floats(1e-6, 1e6) | st.sampled_from([1.0, 16 / 30, 16 / math.sqrt(30), -2.0, 0.0])
layer = st.tuples(st.sampled_from(sorted(KERNEL)), st.integers(0, 4), scales)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layers=st.dictionaries(
        st.text("ab.+$1é", min_size=1, max_size=5), layer, min_size=1, max_size=5
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_every_kind_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    layers: dict[str, tuple[Kind, int, float]],
    dtype: torch.dtype,
) -> None:
    folder = tmp_path_factory.mktemp("peft") / "out"
    given = {
        name: factors(rank, scale, dtype, seed)
        for seed, (name, (_, rank, scale)) in enumerate(layers.items())
    }
    keys = [key for name, (kind, *_) in layers.items() for key in pair_keys(name, kind)]
    form, digest = Form(compact=True), "float32:ab"
    with peft_folder(folder, keys, About("org/m", digest), form=form) as writer:
        for name, (kind, *_) in layers.items():
            writer.add(name, given[name], kind, KERNEL[kind])
    with PeftReader(folder) as reader:
        assert set(reader.layers) == set(layers)
        assert (reader.about.base, reader.about.base_fingerprint) == ("org/m", "float32:ab")
        for name, (kind, rank, scale) in layers.items():
            known, back = reader.layers[name], reader.factors(name)
            assert (known.kind, known.rank, known.m, known.n) == (kind, rank, 5, 12)
            assert known.a_shape[1:] == (KERNEL[kind] or (12,))
            assert back.scale == scale
            assert back.a.dtype == dtype
            assert torch.equal(back.a, given[name].a)
            assert torch.equal(back.b, given[name].b)


def test_peft_needs_no_more_than_its_own_two_files(tmp_path: Path) -> None:
    """Where no α gives the scale to the last bit, it is noted aside; α/r is as near as can be."""
    given = {f"l.{i}": factors(3, 16 / math.sqrt(i + 1), seed=i) for i in range(30)}
    keys = [key for name in given for key in pair_keys(name)]
    with peft_folder(tmp_path / "out", keys, About(), form=Form(compact=True)) as writer:
        for name, one in given.items():
            writer.add(name, one)
    for name, update in updates(tmp_path / "out").items():
        assert_close(update, product(given[name]), 1e-15)


def test_ranks_and_alphas_stand_where_most_layers_have_them(tmp_path: Path) -> None:
    ranks = {"a.x": 2, "b.x": 2, "c.x": 4, "x": 2}
    with peft_folder(
        tmp_path / "out",
        [key for name in ranks for key in pair_keys(name)],
        About(fan_in_fan_out=True, task_type=None),
        modules_to_save=["head"],
        form=Form(compact=True),
    ) as writer:
        for name, rank in ranks.items():
            writer.add(name, factors(rank, 1.0))
    config = config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert config["rank_pattern"] == config["alpha_pattern"] == {r"^c\.x": 4}
    assert isinstance(config["lora_alpha"], int)
    assert config["target_modules"] == list(ranks)
    assert (config["fan_in_fan_out"], config["task_type"]) == (True, None)
    assert (config["modules_to_save"], config["base_model_name_or_path"]) == (["head"], None)
    assert not (tmp_path / "out" / "flexlora.json").exists()


def test_ranks_that_differ_are_filled_up_with_zeros_and_noted(tmp_path: Path) -> None:
    given: dict[str, tuple[Factors, Kind]] = {
        "conv": (factors(2, 1.0), "convolution"),
        "embed": (factors(0, 3.0, seed=1), "embedding"),
        "q": (factors(4, 0.3, torch.bfloat16, seed=2), "linear"),
    }
    keys = [key for name, (_, kind) in given.items() for key in pair_keys(name, kind)]
    with peft_folder(tmp_path / "out", [*keys, f"{PREFIX}lm_head.weight"], About()) as writer:
        writer.whole(f"{PREFIX}lm_head.weight", torch.arange(3))
        for name, (one, kind) in given.items():
            writer.add(name, one, kind, KERNEL[kind])
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == [
        *("adapter_config.json", "adapter_model.safetensors", "flexlora.json")
    ]
    written, config = stored(tmp_path / "out"), config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 4, {})
    assert config["alpha_pattern"] == {}
    assert torch.equal(written[f"{PREFIX}lm_head.weight"], torch.arange(3))
    shapes = {key.removeprefix(PREFIX): tuple(x.shape) for key, x in written.items()}
    assert shapes["conv.lora_A.weight"] == (4, 3, 2, 2)
    assert shapes["conv.lora_B.weight"] == (5, 4, 1, 1)
    assert (shapes["embed.lora_embedding_A"], shapes["embed.lora_embedding_B"]) == ((4, 12), (5, 4))
    assert json.loads((tmp_path / "out" / "flexlora.json").read_text())["ranks"] == {
        "conv": 2,
        "embed": 0,
    }
    for name, update in updates(tmp_path / "out").items():
        assert_close(update, product(given[name][0]), 2**-8 if name == "q" else 1e-15)
    with PeftReader(tmp_path / "out") as reader:
        assert {name: x.rank for name, x in reader.layers.items()} == {
            name: one.rank for name, (one, _) in given.items()
        }


def test_rank_0_is_a_rank_1_of_zeros_that_is_noted(tmp_path: Path) -> None:
    with peft_folder(tmp_path / "out", pair_keys("x", "convolution"), About()) as writer:
        writer.add("x", factors(0, 2.5), "convolution", (3, 2, 2))
    written = stored(tmp_path / "out")
    assert written[f"{PREFIX}x.lora_A.weight"].shape == (1, 3, 2, 2)
    assert written[f"{PREFIX}x.lora_B.weight"].shape == (5, 1, 1, 1)
    assert not any(bool(tensor.any()) for tensor in written.values())
    assert json.loads((tmp_path / "out" / "flexlora.json").read_text())["ranks"] == {"x": 0}


def test_a_body_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> None:
        with peft_folder(tmp_path / "out", pair_keys("x"), About()) as writer:
            writer.add("x", factors(2, 1.0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = "out exists; choose another path or remove it"
    with pytest.raises(RunError, match=words), peft_folder(tmp_path / "out", [], About()):
        pytest.fail("the body must not begin")
