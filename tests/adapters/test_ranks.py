"""Ranks: which pattern decides for which layer, and every refusal."""

from __future__ import annotations

import math

import pytest

from flexlora.adapters import LayerSpec, Ranks, lora_scale, ranks_in_words
from flexlora.errors import RankError

LAYERS = tuple(
    LayerSpec(f"model.layers.{i}.{path}", m, n)
    for i in range(2)
    for path, m, n in (
        ("self_attn.q_proj", 64, 64),
        ("mlp.up_proj", 256, 64),
        ("mlp.down_proj", 64, 256),
    )
)


def resolved(ranks: Ranks) -> list[int]:
    return list(ranks.resolve(LAYERS).values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.self_attn.q_proj", "attention"),
        ("transformer.h.0.Attention.c_proj", "attention"),
        ("model.layers.0.mlp.up_proj", "mlp"),
        ("decoder.block.1.feed_forward.wi", "mlp"),
        ("blocks.3.ffn.w1", "mlp"),
        ("lm_head", "other"),
    ],
)
def test_a_layers_kind_follows_its_path(name: str, kind: str) -> None:
    assert LayerSpec(name, 3, 2).kind == kind
    assert LayerSpec(name, 3, 2).largest_rank == 2


@pytest.mark.parametrize(
    ("pattern", "hits"),
    [
        ("attention", 2),
        ("mlp", 4),
        ("up_proj", 2),
        ("self_attn.q_proj", 2),
        ("proj", 0),
        ("model.layers.1.mlp.up_proj", 1),
        ("*.layers.0.*", 3),
        ("*proj", 6),
        ("*.Q_PROJ", 0),
    ],
)
def test_patterns(pattern: str, hits: int) -> None:
    assert sum(layer.matches(pattern) for layer in LAYERS) == hits


def test_one_rank_for_all() -> None:
    assert resolved(Ranks.of(8)) == [8] * 6
    assert str(Ranks.of(8)) == "8"


def test_the_first_pattern_that_matches_decides() -> None:
    assert resolved(Ranks.of({"attention": 30, "mlp": 60})) == [30, 60, 60] * 2
    assert resolved(Ranks.of({"*.layers.0.*": 2, "all": 5})) == [2, 2, 2, 5, 5, 5]
    assert resolved(Ranks.of({"all": 5, "*.layers.0.*": 2})) == [5] * 6
    assert str(Ranks.of({"attention": 30, "mlp": 60})) == "attention 30, mlp 60"
    assert list(Ranks.of(1).resolve(LAYERS)) == [layer.name for layer in LAYERS]


def test_ranks_are_clipped_where_a_layer_is_narrower() -> None:
    asked = Ranks.of({"attention": 10, "all": 100})
    assert list(asked.resolve(LAYERS, clip=True).values()) == [10, 64, 64] * 2
    assert [x.name for x in asked.too_wide(LAYERS)] == [x.name for x in LAYERS if x.kind == "mlp"]
    assert Ranks.of(64).too_wide(LAYERS) == []
    assert Ranks.of(64).resolve(LAYERS, clip=True) == Ranks.of(64).resolve(LAYERS)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ({"m.mlp.up": 8, "m.attn.q": 8}, "8"),
        ({"m.mlp.up": 25, "m.attn.q": 4, "m.attn.k": 4}, "attention 4, mlp 25"),
        (
            {"m.mlp.up": 9, "m.attn.q": 4, "m.attn.k": 2, "head": 1},
            "attention 2 to 4, mlp 9, other 1",
        ),
    ],
)
def test_ranks_are_told_by_kind_of_layer(ranks: dict[str, int], words: str) -> None:
    assert ranks_in_words(ranks) == words


def test_scaling_rounds_and_stays_above_zero() -> None:
    ranks = Ranks.of({"attention": 30, "mlp": 200}).scaled(0.05)
    assert ranks.patterns == (("attention", 2), ("mlp", 10))
    assert Ranks.of(8).scaled(0.01).patterns == (("all", 1),)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (Ranks.of(0), "rank 0 for 'all' is below 1"),
        (Ranks.of({"all": 2, "mlp": -3}), "rank -3 for 'mlp' is below 1"),
        (Ranks.of(65), r"rank 65 for layer model.layers.0.self_attn.q_proj is above min\(m, n\)"),
        (Ranks.of({"q_prj": 2, "all": 3}), "'q_prj' matches no adapted layer; did you mean 'q_pro"),
        (Ranks.of({"mlp": 2}), "no rank pattern matches layer model.layers.0.self_attn.q_proj"),
        (Ranks.of({}), "add a rank for 'all'"),
    ],
)
def test_refusals(ranks: Ranks, message: str) -> None:
    with pytest.raises(RankError, match=message):
        ranks.resolve(LAYERS)


def test_the_scale_of_lora_and_of_rslora() -> None:
    assert lora_scale(16.0, 8) == 2.0
    assert lora_scale(16.0, 8, "rslora") == pytest.approx(16 / math.sqrt(8))
    assert lora_scale(16.0, 0) == 1.0


@pytest.mark.parametrize("anchor", [1, 2, 3, 7, 30, 200])
@pytest.mark.parametrize("alpha", [16.0, 5.0, 0.1])
def test_the_anchor_keeps_its_scale_and_higher_ranks_lose_its_root_alone(
    alpha: float, anchor: int
) -> None:
    """α/√(anchor · r): rsLoRA at α′ = α/√anchor, as a reader that knows α/√r says it."""
    assert lora_scale(alpha, anchor, "anchored", anchor) == lora_scale(alpha, anchor)
    for rank in (1, 4, 9, 64, 200):
        scale = lora_scale(alpha, rank, "anchored", anchor)
        as_rslora = lora_scale(alpha / math.sqrt(anchor), rank, "rslora")
        assert scale == pytest.approx(as_rslora, rel=1e-15)
        assert scale / lora_scale(alpha, rank) == pytest.approx(math.sqrt(rank / anchor), rel=1e-15)
    assert lora_scale(alpha, 0, "anchored", anchor) == 1.0


def test_no_other_scaling_has_an_anchor_and_at_rank_1_it_is_rslora() -> None:
    for rank in (1, 3, 8):
        assert lora_scale(16.0, rank, "lora", 4) == lora_scale(16.0, rank, "lora")
        assert lora_scale(16.0, rank, "rslora", 4) == lora_scale(16.0, rank, "rslora")
        assert lora_scale(16.0, rank, "anchored", 1) == lora_scale(16.0, rank, "rslora")
