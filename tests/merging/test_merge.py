"""Merging: what is written is the best of its rank of Σ w ΔW, and the record says how near."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flexlora.formats.peft import load_peft
from flexlora.merging import merge
from peft_folders import (
    add,
    config_of,
    edit,
    pair,
    stored,
    updates,
    weighted,
    write_folder,
)
from reference import assert_all_close, assert_close, best, gaussian, tail_norm
from wrong_input import contents

Q, DOWN = "layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Ranks, α, rsLoRA, patterns and layers differ."""
    a = pair(Q, 12, 10, 4) | pair(DOWN, 9, 14, 4, 1)
    b = pair(Q, 12, 10, 2, 2) | pair(DOWN, 9, 14, 5, 3)
    c = pair(Q, 12, 10, 3, 4)
    return [
        write_folder(tmp_path / "a", a, r=4, alpha=16),
        write_folder(
            *(tmp_path / "b", b),
            r=2,
            alpha=7,
            use_rslora=True,
            rank_pattern={"down_proj": 5},
            alpha_pattern={r"layers\.\d+\.mlp\.down_proj": 1.5},
        ),
        write_folder(tmp_path / "c", c, r=3),
    ]


def test_full_rank_is_the_exact_sum_at_its_true_rank(tmp_path: Path, three: list[Path]) -> None:
    weights = [0.5, 0.3, -0.2]
    done = merge(three, tmp_path / "out", weights=weights, rank="full")
    wanted = weighted(three, weights)
    assert_all_close(updates(tmp_path / "out"), wanted, 1e-6)
    assert {x.name: x.ranks for x in done.layers} == {Q: (4, 2, 3), DOWN: (4, 5, None)}
    assert {x.name: x.rank for x in done.layers} == {Q: 9, DOWN: 9}
    assert (done.error, done.share) == (0.0, 0.0)
    assert done.weights == tuple(weights)
    assert done.adapters == tuple(three)
    for layer in done.layers:
        assert layer.norm == pytest.approx(float(wanted[layer.name].norm()), rel=1e-6)
    assert done.norm == pytest.approx(float(torch.cat([*map(torch.ravel, wanted.values())]).norm()))


def test_without_weights_it_is_the_mean(tmp_path: Path, three: list[Path]) -> None:
    done = merge(three, tmp_path / "out", rank="full")
    assert done.weights == (1 / 3, 1 / 3, 1 / 3)
    assert_all_close(updates(tmp_path / "out"), weighted(three, [1 / 3] * 3), 1e-6)


def test_a_rank_is_the_best_of_it_and_the_record_tells_its_distance(
    tmp_path: Path, three: list[Path]
) -> None:
    weights = [1.0, 1.0, 2.0]
    done = merge(three, tmp_path / "out", weights=weights, rank=3)
    wanted, written = weighted(three, weights), updates(tmp_path / "out")
    for layer in done.layers:
        assert layer.rank == 3
        assert_close(written[layer.name], best(wanted[layer.name], 3), 1e-5)
        lost, whole = tail_norm(wanted[layer.name], 3), float(wanted[layer.name].norm())
        assert float((wanted[layer.name] - written[layer.name]).norm()) == pytest.approx(lost, 1e-5)
        assert layer.error == pytest.approx(lost, rel=1e-5)
        assert layer.share == pytest.approx((lost / whole) ** 2, rel=1e-5)
    errors = [tail_norm(x, 3) for x in wanted.values()]
    assert done.error == pytest.approx(float(torch.tensor(errors).norm()), rel=1e-5)
    assert done.share == pytest.approx((done.error / done.norm) ** 2)
    assert done.parameters == 3 * (12 + 10 + 9 + 14)
    files = [tmp_path / "out" / x for x in ("adapter_config.json", "adapter_model.safetensors")]
    assert sorted((tmp_path / "out").iterdir()) == files
    assert done.nbytes == sum(file.stat().st_size for file in files)


def test_a_rank_above_the_sum_is_the_true_rank_of_each_layer(tmp_path: Path) -> None:
    """Two adapters of the same directions: the sum has the rank of one."""
    a = write_folder(tmp_path / "a", pair(Q, 12, 10, 3) | pair(DOWN, 9, 14, 3, 1), r=3)
    b = write_folder(tmp_path / "b", pair(Q, 12, 10, 3) | pair(DOWN, 9, 14, 3, 2), r=3, alpha=9)
    done = merge([a, b], tmp_path / "out", rank=100)
    assert {x.name: x.rank for x in done.layers} == {Q: 3, DOWN: 6}
    assert_all_close(updates(tmp_path / "out"), weighted([a, b], [0.5, 0.5]), 1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_energy_keeps_its_share_with_the_fewest_directions(
    tmp_path: Path, three: list[Path], share: float
) -> None:
    done = merge(three, tmp_path / "out", energy=share)
    ranks = set()
    for layer in done.layers:
        wanted = weighted(three, [1 / 3] * 3)[layer.name]
        kept = 1.0 - (tail_norm(wanted, layer.rank) / float(wanted.norm())) ** 2
        less = 1.0 - (tail_norm(wanted, layer.rank - 1) / float(wanted.norm())) ** 2
        assert less < share <= kept
        assert layer.share == pytest.approx(1.0 - kept, abs=1e-6)
        assert_close(updates(tmp_path / "out")[layer.name], best(wanted, layer.rank), 1e-5)
        ranks.add(layer.rank)
    assert max(ranks) < 9


def test_all_of_the_energy_is_all_of_the_sum(tmp_path: Path, three: list[Path]) -> None:
    done = merge(three, tmp_path / "out", energy=1.0)
    assert [layer.rank for layer in done.layers] == [9, 9]
    assert_all_close(updates(tmp_path / "out"), weighted(three, [1 / 3] * 3), 1e-6)


def test_left_leaves_orthonormal_rows_in_a_and_balanced_gives_each_side_a_root(
    tmp_path: Path, three: list[Path]
) -> None:
    merge(three, tmp_path / "left", rank=4)
    merge(three, tmp_path / "balanced", rank=4, split="balanced")
    assert_all_close(updates(tmp_path / "balanced"), updates(tmp_path / "left"), 1e-6)
    for name, update in weighted(three, [1 / 3] * 3).items():
        s = torch.linalg.svdvals(update)[:4]
        for split, of_b, of_a in (("left", s, torch.ones(4)), ("balanced", s.sqrt(), s.sqrt())):
            factors = load_peft(tmp_path / split)[name]
            b, a = factors.b.double(), factors.a.double()
            assert_close(b.T @ b, torch.diag(of_b.square()), 1e-5)
            assert_close(a @ a.T, torch.diag(of_a.square()), 1e-5)


def test_what_is_written_has_scale_one(tmp_path: Path, three: list[Path]) -> None:
    merge(three, tmp_path / "out", weights=[3.0, -0.1, 0.7], energy=0.99)
    config = config_of(tmp_path / "out")
    assert config["use_rslora"] is False
    assert config["lora_alpha"] == config["r"]
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert {factors.scale for factors in load_peft(tmp_path / "out").values()} == {1.0}
    assert not (tmp_path / "out" / "flexlora.json").exists()


def test_what_cancels_is_written_as_nothing(tmp_path: Path) -> None:
    """Rank 0 is written as every reader can read it: zeros of the others' rank."""
    tensors = pair(Q, 12, 10, 4)
    a = write_folder(tmp_path / "a", tensors | pair(DOWN, 9, 14, 4), r=4, alpha=3)
    b = write_folder(tmp_path / "b", tensors, r=4, alpha=3)
    done = merge([a, b], tmp_path / "out", weights=[0.7, -0.7], rank=2)
    (q,) = [layer for layer in done.layers if layer.name == Q]
    assert (q.rank, q.norm, q.error, q.share) == (0, 0.0, 0.0, 0.0)
    written = stored(tmp_path / "out")
    assert torch.equal(written[f"base_model.model.{Q}.lora_A.weight"], torch.zeros(2, 10))
    assert torch.equal(written[f"base_model.model.{Q}.lora_B.weight"], torch.zeros(12, 2))
    assert load_peft(tmp_path / "out")[Q].rank == 0
    # Such a folder is an adapter like others.
    again = merge([tmp_path / "out", a], tmp_path / "again", weights=[1.0, 1.0], rank="full")
    assert {x.name: x.ranks for x in again.layers} == {Q: (0, 4), DOWN: (2, 4)}
    assert_all_close(updates(tmp_path / "again"), weighted([tmp_path / "out", a], [1.0, 1.0]), 1e-6)
    copied = merge([tmp_path / "out"], tmp_path / "copy", rank="full")
    assert not copied.untouched  # The zeros that fill it up are made anew.
    assert contents_of(tmp_path / "copy") == contents_of(tmp_path / "out")


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_eight_bits_are_not_called_untouched(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", pair(Q, 12, 10, 3, dtype=torch.float8_e4m3fn), r=3, alpha=3)
    done = merge([a], tmp_path / "out", rank="full", compact=True)
    assert (done.untouched, done.dtype) == (False, "bfloat16")


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_adapter_at_full_rank_is_kept_bit_for_bit(
    tmp_path: Path, rslora: bool, dtype: torch.dtype
) -> None:
    tensors = pair(Q, 12, 10, 3, dtype=dtype) | pair(DOWN, 9, 14, 7, 1, dtype)
    a = write_folder(
        tmp_path / "a",
        tensors,
        r=3,
        alpha=10,
        use_rslora=rslora,
        rank_pattern={"down_proj": 7},
        alpha_pattern={"q_proj": 0.3},
    )
    done = merge([a], tmp_path / "out", rank="full", compact=True)
    assert (done.untouched, done.one_rank) == (True, None)
    assert (done.error, done.share) == (0.0, 0.0)
    assert_all_close({"": torch.tensor(done.norm)}, {"": whole_norm(a)}, 1e-6)
    given, written = load_peft(a), load_peft(tmp_path / "out")
    for name, factors in given.items():
        assert written[name].scale == factors.scale
        assert written[name].b.dtype == written[name].a.dtype == dtype
    before, after = stored(a), stored(tmp_path / "out")
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def whole_norm(folder: Path) -> torch.Tensor:
    return torch.cat([update.ravel() for update in updates(folder).values()]).norm()


@pytest.mark.parametrize(
    "options",
    [
        {"rank": "full", "weights": [2.0]},
        {"rank": "full", "dtype": "float32"},
        {"rank": 4},
        {"energy": 1.0},
    ],
)
def test_one_adapter_otherwise_is_a_sum_like_others(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    a = write_folder(tmp_path / "a", pair(Q, 12, 10, 4), r=4, alpha=9)
    done = merge([a], tmp_path / "out", **options)
    assert not done.untouched
    assert load_peft(tmp_path / "out")[Q].scale == 1.0
    assert_all_close(updates(tmp_path / "out"), weighted([a], list(done.weights)), 1e-6)


def test_one_adapter_is_resized(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", pair(Q, 12, 10, 8), r=8, alpha=16)
    (layer,) = merge([a], tmp_path / "out", rank=3).layers
    assert_close(updates(tmp_path / "out")[Q], best(updates(a)[Q], 3))
    assert (layer.ranks, layer.rank) == ((8,), 3)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (torch.float32, torch.float32, "float32"),
        (torch.bfloat16, torch.bfloat16, "bfloat16"),
        (torch.float16, torch.float16, "float16"),
        (torch.bfloat16, torch.float16, "float32"),
        (torch.float16, torch.float32, "float32"),
        (torch.float64, torch.float16, "float64"),
    ],
)
def test_the_dtype_is_the_narrowest_that_holds_every_input(
    tmp_path: Path, one: torch.dtype, other: torch.dtype, wanted: str
) -> None:
    a = write_folder(tmp_path / "a", pair(Q, 12, 10, 3, dtype=one), r=3)
    b = write_folder(tmp_path / "b", pair(Q, 12, 10, 4, 1, dtype=other), r=4)
    for order in ([a, b], [b, a]):
        done = merge(order, tmp_path / order[0].name / "out", rank="full")
        assert done.dtype == wanted
        dtypes = {x.dtype for x in stored(tmp_path / order[0].name / "out").values()}
        assert dtypes == {getattr(torch, wanted)}
        # What is stored is rounded once, at the end.
        tolerance = 2 * max(torch.finfo(getattr(torch, wanted)).eps, 1e-6)
        out = updates(tmp_path / order[0].name / "out")
        assert_all_close(out, weighted([a, b], [0.5, 0.5]), tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_can_be_asked_for(tmp_path: Path, three: list[Path], dtype: str) -> None:
    done = merge(three, tmp_path / "out", rank=5, dtype=dtype)
    assert done.dtype == dtype
    assert {x.dtype for x in stored(tmp_path / "out").values()} == {getattr(torch, dtype)}
    eps = torch.finfo(getattr(torch, dtype)).eps
    wanted = {name: best(x, 5) for name, x in weighted(three, [1 / 3] * 3).items()}
    assert_all_close(updates(tmp_path / "out"), wanted, max(2 * eps, 1e-5))


def test_half_precision_is_summed_in_float32(tmp_path: Path) -> None:
    """Two adapters that nearly cancel: in bfloat16 their difference would be rounding."""
    big, small = pair(Q, 12, 10, 2, dtype=torch.bfloat16), pair(Q, 12, 10, 1, 5, torch.bfloat16)
    joined = {key: torch.cat([big[key], small[key]], 0 if "_A" in key else 1) for key in big}
    a = write_folder(tmp_path / "a", joined, r=3, alpha=3)
    b = write_folder(tmp_path / "b", big, r=2, alpha=2)
    (layer,) = merge([a, b], tmp_path / "out", weights=[100, -100], rank=1, dtype="float32").layers
    wanted = 100 * (small[f"{Q}.lora_B.weight"].double() @ small[f"{Q}.lora_A.weight"].double())
    assert_close(updates(tmp_path / "out")[Q], wanted, 1e-5)
    assert layer.share < 1e-9


def test_what_the_adapters_agree_on_is_kept(tmp_path: Path, three: list[Path]) -> None:
    for folder in three:
        edit(folder, base_model_name_or_path="org/base", fan_in_fan_out=True, task_type="SEQ_CLS")
        note = '{"ranks": {}, "scales": {}, "base_fingerprint": "float32:ab"}'
        (folder / "flexlora.json").write_text(note)
    merge(three, tmp_path / "out", rank=2)
    config = config_of(tmp_path / "out")
    assert config["base_model_name_or_path"] == "org/base"
    assert config["fan_in_fan_out"] is True
    assert config["task_type"] == "SEQ_CLS"
    assert load_peft(tmp_path / "out").base_fingerprint == "float32:ab"
    # What only some of them know, or know otherwise, is not claimed of the sum.
    edit(three[0], base_model_name_or_path=None, task_type="CAUSAL_LM")
    (three[1] / "flexlora.json").unlink()
    merge(three, tmp_path / "less", rank=2)
    config = config_of(tmp_path / "less")
    assert config["base_model_name_or_path"] == "org/base"
    assert config["task_type"] is None
    assert load_peft(tmp_path / "less").base_fingerprint == ""


def test_another_base_model_can_be_forced(tmp_path: Path, three: list[Path]) -> None:
    edit(three[0], base_model_name_or_path="org/one")
    edit(three[1], base_model_name_or_path="org/other")
    merge(three, tmp_path / "out", rank="full", force=True)
    assert_all_close(updates(tmp_path / "out"), weighted(three, [1 / 3] * 3), 1e-6)
    assert config_of(tmp_path / "out")["base_model_name_or_path"] == "org/one"


def test_one_model_at_two_places_is_one_base(tmp_path: Path, three: list[Path]) -> None:
    edit(three[0], base_model_name_or_path="org/tiny")
    edit(three[1], base_model_name_or_path="/models/tiny/")
    assert merge(three, tmp_path / "out", rank=2).layers


def test_modules_saved_whole_are_carried_over_bit_for_bit(
    tmp_path: Path, three: list[Path]
) -> None:
    head = {"base_model.model.lm_head.weight": gaussian(5, 3).bfloat16()}
    head["base_model.model.lm_head.bias"] = torch.arange(5)
    for folder in three:
        edit(add(folder, **head), modules_to_save=["lm_head"])
    merge(three, tmp_path / "out", rank=2)
    written = stored(tmp_path / "out")
    for key, tensor in head.items():
        assert written[key].dtype == tensor.dtype
        assert torch.equal(written[key], tensor)
    assert config_of(tmp_path / "out")["modules_to_save"] == ["lm_head"]
    untouched = merge(three[:1], tmp_path / "copy", rank="full", compact=True)
    assert untouched.untouched
    assert set(stored(tmp_path / "copy")) == set(stored(three[0]))


def test_a_frozen_copy_under_an_embedding_may_be_in_one_adapter_alone(tmp_path: Path) -> None:
    frozen = gaussian(7, 5)
    tensors = {
        "embed.lora_embedding_A": gaussian(2, 7),
        "embed.lora_embedding_B": gaussian(5, 2),
    }
    a = write_folder(tmp_path / "a", tensors, r=2)
    b = write_folder(tmp_path / "b", tensors | {"embed.base_layer.weight": frozen}, r=2)
    merge([a, b], tmp_path / "out", rank=2)
    assert torch.equal(stored(tmp_path / "out")["base_model.model.embed.base_layer.weight"], frozen)
    assert_all_close(updates(tmp_path / "out"), weighted([a, b], [0.5, 0.5]))


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (1, 1), (2, 1, 3)])
def test_a_convolution_is_merged_as_a_matrix(tmp_path: Path, kernel: tuple[int, ...]) -> None:
    folders = []
    for name, rank in (("a", 3), ("b", 2)):
        tensors = {
            "conv.lora_A.weight": gaussian(rank, 4, *kernel, seed=rank),
            "conv.lora_B.weight": gaussian(6, rank, *(1 for _ in kernel), seed=9 + rank),
        }
        folders.append(write_folder(tmp_path / name, tensors, r=rank, alpha=7))
    (layer,) = merge(folders, tmp_path / "out", weights=[1.0, -2.0], rank=4).layers
    n = 4 * int(torch.tensor(kernel).prod())
    assert (layer.kind, layer.m, layer.n, layer.rank) == ("convolution", 6, n, 4)
    written = stored(tmp_path / "out")
    assert written["base_model.model.conv.lora_A.weight"].shape == (4, 4, *kernel)
    assert written["base_model.model.conv.lora_B.weight"].shape == (6, 4, *(1 for _ in kernel))
    wanted = weighted(folders, [1.0, -2.0])
    assert_close(updates(tmp_path / "out")["conv"], best(wanted["conv"], 4))


def test_equal_inputs_give_equal_bytes_and_stay_as_they_were(
    tmp_path: Path, three: list[Path]
) -> None:
    before = [contents(folder) for folder in three]
    for out in ("one", "two"):
        merge(three, tmp_path / out, energy=0.95)
    assert contents_of(tmp_path / "one") == contents_of(tmp_path / "two")
    assert [contents(folder) for folder in three] == before


def test_an_adapter_may_be_given_twice_and_as_text(tmp_path: Path, three: list[Path]) -> None:
    done = merge([str(three[0]), three[0]], str(tmp_path / "out"), weights=[1, 2], rank="full")
    assert [layer.ranks for layer in done.layers] == [(4, 4), (4, 4)]
    assert [layer.rank for layer in done.layers] == [4, 4]
    assert_all_close(updates(tmp_path / "out"), weighted(three[:1], [3.0]), 1e-6)


def test_a_zero_weight_still_shows_whose_layers_there_are(
    tmp_path: Path, three: list[Path]
) -> None:
    done = merge([three[0], three[2]], tmp_path / "out", weights=[0.0, 1.0], rank="full")
    assert {x.name: (x.ranks, x.rank) for x in done.layers} == {
        Q: ((4, 3), 3),
        DOWN: ((4, None), 0),
    }
    wanted = updates(three[2]) | {DOWN: torch.zeros(9, 14)}
    assert_all_close(updates(tmp_path / "out"), wanted, 1e-6)


def test_the_watch_is_told_each_layer(tmp_path: Path, three: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    merge(three, tmp_path / "out", rank=1, watch=lambda done, layers: seen.append((done, layers)))
    assert seen == [(1, 2), (2, 2)]


def test_what_was_merged_is_merged_further(tmp_path: Path, three: list[Path]) -> None:
    """The mean of two, and then a third of weight 1/3 beside 2/3: the mean of three."""
    merge(three[:2], tmp_path / "two", rank="full")
    merge([tmp_path / "two", three[2]], tmp_path / "all", weights=[2 / 3, 1 / 3], rank="full")
    assert_all_close(updates(tmp_path / "all"), weighted(three, [1 / 3] * 3), 1e-6)


def test_keys_with_an_adapters_name_or_without_the_prefix_are_the_same_layers(
    tmp_path: Path,
) -> None:
    tensors = pair(Q, 12, 10, 3)
    a = write_folder(tmp_path / "a", tensors, r=3)
    b = write_folder(tmp_path / "b", tensors, r=3)
    bare = {key.replace(".weight", ".default.weight"): x for key, x in tensors.items()}
    save_file(bare, b / "adapter_model.safetensors")
    (layer,) = merge([a, b], tmp_path / "out", weights=[1.0, 1.0], rank="full").layers
    assert (layer.name, layer.ranks) == (Q, (3, 3))
    assert_all_close(updates(tmp_path / "out"), weighted([a], [2.0]), 1e-6)
