"""Sequences in one row come out as they do apart, and a model that cannot pack is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional

from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel, packing
from flexlora.models.packing import PACKED, can_pack, packed
from models.oracle import FAMILIES, VOCABULARY, random_adapter, random_model

LENGTHS = (4, 9, 1, 6)


def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, VOCABULARY, (1, n), generator=generator) for n in LENGTHS]


def in_one_row(model: Any, rows: list[torch.Tensor]) -> torch.Tensor:
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    with packed(model, [row.shape[1] for row in rows]):
        ids = torch.cat(rows, dim=1)
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits


def apart(model: Any, rows: list[torch.Tensor]) -> torch.Tensor:
    """All in one batch, padded on the right, under transformers' own attention and masks."""
    longest = max(LENGTHS)
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k, : row.shape[1]] = row[0]
        mask[k, : row.shape[1]] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[mask.bool()][None]


@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "gemma3", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("call", ["_one_by_one", "_side_by_side"])
def test_packed_equals_padded(
    monkeypatch: pytest.MonkeyPatch, family: str, dtype: torch.dtype, call: str
) -> None:
    model: Any = random_model(family, dtype).model
    assert can_pack(model)
    called: list[int] = []
    inner = getattr(packing, call)

    def noted(*given: Any) -> Any:
        called.append(1)
        return inner(*given)

    monkeypatch.setattr(packing, "_one_by_one", noted)
    got, wanted = in_one_row(model, sequences()), apart(model, sequences())
    assert torch.allclose(got, wanted, atol=1e-10 if dtype == torch.float64 else 1e-5)
    assert len(called) == 2


def test_a_window_is_kept() -> None:
    """The window of 3 is felt: the same weights without one give something else."""
    model: Any = random_model("mistral").model
    wide: Any = random_model("mistral", sliding_window=None).model
    near, far = in_one_row(model, sequences()), in_one_row(wide, sequences())
    assert torch.allclose(near[:, :3], far[:, :3], atol=1e-6)
    assert not torch.allclose(near[:, 7:13], far[:, 7:13], atol=1e-3)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("heads", [4, 2])
def test_side_by_side_equals_one_by_one(window: int | None, heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)

    def draw(count: int) -> torch.Tensor:
        drawn = torch.randn(1, count, total, 6, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_()

    leaves = [draw(4), draw(heads), draw(heads)]
    options = {"scale": 0.3, "enable_gqa": heads != 4}
    found = []
    for call in (packing._one_by_one, packing._side_by_side):
        out = call(leaves, LENGTHS, partial(packing._causal, window=window, options=options))
        found.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_cuda_shared_heads_are_written_out_where_flash_cannot_take_them(
    monkeypatch: pytest.MonkeyPatch, window: int | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 9, 8, generator=generator).to(dtype) for n in (6, 2, 2))
    told: list[bool] = []
    attention = functional.scaled_dot_product_attention

    def listens(*given: Any, **more: Any) -> torch.Tensor:
        told.append(more["enable_gqa"])
        return attention(*given, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", listens)

    def attend() -> torch.Tensor:
        options = {"scale": 0.3, "enable_gqa": True}
        return packing._attend(query, key, value, places=None, window=window, options=options)

    wanted = attend()
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    found = attend()
    assert told == [True, dtype == torch.bfloat16 and window is None]
    assert torch.allclose(found, wanted, atol=1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("places", [(2, 3, 5, 6, 12, 14, 19), (13,), (4, 19), ()])
def test_what_is_asked_is_answered_and_nothing_else(
    window: int | None, heads: int, places: tuple[int, ...]
) -> None:
    """Some sequences are asked nothing, some at their first or last place."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, sum(LENGTHS), 6)
    leaves = [
        torch.randn(1, n, *shape[1:], generator=generator, dtype=torch.float64).requires_grad_()
        for n in (4, heads, heads)
    ]
    options = {"scale": 0.3, "enable_gqa": heads != 4}
    attend = partial(packing._causal, window=window, options=options)
    asked = torch.tensor(places, dtype=torch.long)
    silent = torch.ones(sum(LENGTHS), dtype=torch.bool)
    silent[asked] = False
    few = packing._one_by_one(leaves, LENGTHS, attend, asked)
    whole = packing._one_by_one(leaves, LENGTHS, attend)
    assert torch.allclose(few[:, :, asked], whole[:, :, asked], atol=1e-12)
    assert not few[:, :, silent].any()
    if places:
        got = torch.autograd.grad(few.square().sum(), leaves)
        wanted = torch.autograd.grad(whole[:, :, asked].square().sum(), leaves)
        for one, other in zip(got, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("call", [packing._one_by_one, packing._side_by_side])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("bad", range(len(LENGTHS)))
def test_a_sequence_of_nan_spoils_no_other(call: Any, window: int | None, bad: int) -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(1, 2, sum(LENGTHS), 6, generator=generator, dtype=torch.float64)
        for _ in range(3)
    ]
    options = {"scale": 0.3, "enable_gqa": False}
    attend = partial(packing._causal, window=window, options=options)
    spoilt = [x.clone() for x in leaves]
    begin = sum(LENGTHS[:bad])
    mine = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    mine[begin : begin + LENGTHS[bad]] = True
    for x in spoilt:
        x[:, :, mine] = float("nan")
        x.requires_grad_()
    out, wanted = call(spoilt, LENGTHS, attend), call(leaves, LENGTHS, attend)
    assert torch.allclose(out[:, :, ~mine], wanted[:, :, ~mine])
    assert out[:, :, mine].isnan().all()
    for gradient in torch.autograd.grad(out.sum(), spoilt):
        assert gradient[:, :, ~mine].isfinite().all()


def test_who_cannot_pack() -> None:
    assert not can_pack(random_model("llama", attention="eager").model)
    assert not can_pack(random_model("bloom").model)
    assert not can_pack(torch.nn.Linear(2, 2))
    chunked: Any = random_model("llama").model
    chunked.config.layer_types = ["chunked_attention"] * 2
    assert not can_pack(chunked)


def test_soft_capped_attention_is_not_packed() -> None:
    """It has an attention of its own; ours would not cap its scores."""
    assert not can_pack(random_model("gemma2").model)


class Sinks(transformers.LlamaForCausalLM):  # type: ignore[misc]  # Has no types here.
    """Tells its attention of sinks, which torch's own passes over in silence."""

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        return super().forward(input_ids, s_aux=torch.ones(4), **options)


def test_what_asks_more_of_its_attention_is_not_packed() -> None:
    """Both of a trial's halves would leave it out, and so be alike."""
    inner: Any = random_model("llama").model
    assert not can_pack(Sinks(inner.config).eval())


@pytest.mark.parametrize("more", [{"softcap": 50.0}, {"s_aux": 1}, {"is_causal": False}])
def test_attention_of_another_kind_is_refused(more: dict[str, Any]) -> None:
    """Caps, sinks, or looking ahead."""
    model: Any = random_model("llama").model
    x = torch.ones(1, 4, 3, 6)
    with packed(model, (3,)), pytest.raises(RuntimeError, match=next(iter(more))):
        packing._attention(model.model.layers[0].self_attn, x, x, x, None, **more)


_MASKED = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (transformers.PhimoeConfig, {"num_local_experts": 2, "num_experts_per_tok": 2}),
        (transformers.DogeConfig, {}),
    ],
)
@pytest.mark.parametrize(("window", "packs"), [(8, False), (None, True), (64, True)])
def test_a_window_that_is_in_the_mask_alone_is_not_packed(
    kind: Any, options: dict[str, Any], window: int | None, packs: bool
) -> None:
    """A trial within the window would not show it. One as wide as the context takes nothing."""
    torch.manual_seed(0)
    config = kind(**_MASKED, **options, sliding_window=window)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert can_pack(model) == packs


def test_a_window_that_no_layer_has_is_no_hindrance() -> None:
    whole = random_model("gemma3", layer_types=["full_attention"] * 2).model
    assert can_pack(whole)


class Mixes(transformers.LlamaForCausalLM):  # type: ignore[misc]  # Has no types here.
    """Something other than attention looks at the token before."""

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        out = super().forward(input_ids, **options)
        out.logits = out.logits + out.logits.roll(1, dims=1)
        return out


def test_what_mixes_tokens_elsewhere_is_found_out() -> None:
    inner: Any = random_model("llama").model
    model = Mixes(inner.config).eval()
    assert model._supports_attention_backend
    assert not can_pack(model)


@pytest.mark.parametrize("rows", [1, 5, 9])
def test_small_vocabularies(rows: int) -> None:
    assert can_pack(random_model("llama", vocab_size=rows).model)


def test_the_attention_is_put_back() -> None:
    model: Any = random_model("llama").model
    rows = sequences()
    before = apart(model, rows)
    with packed(model, (1,)):
        assert model.config._attn_implementation == PACKED
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="half way"), packed(model, LENGTHS):
        raise RuntimeError("half way")
    assert model.config._attn_implementation == "sdpa"
    assert packing._lengths == {}
    assert torch.equal(apart(model, rows), before)


def test_packing_is_asked_of_the_base_alone() -> None:
    ours = AdaptedModel(random_model("llama"))
    layer = ours.layers[0]
    broken = LowRank(torch.full((layer.m, 1), torch.inf), torch.ones(1, layer.n))
    ours.set_delta({layer.name: broken})
    ids = torch.tensor([[3, 4], [5, 6]])
    carried = ours.start([random_adapter(ours.layers, 2, seed=k) for k in (0, 1)])
    carried.share((3, 4))  # No rows of the trial would fit.
    assert ours.packs
    assert ours.branches
    assert ours._rowwise
    assert ours._asking
    assert ours._wrapped[layer.name].delta is broken  # It stands on it again.
    ours.set_delta({})
    carried.share((1, 1))
    together = ours(input_ids=ids).logits
    ours.stop()
    assert not torch.allclose(together, ours(input_ids=ids).logits)  # They are carried again.
