"""Adapted models against PEFT, their Δ, and the refusals by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from flexlora.adapters import Adapter, Factors, lora_scale
from flexlora.errors import AdapterError, ModelError
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.trainable import Trainable
from models.layers import KERNELS
from models.oracle import FAMILIES, VOCABULARY, Peft, random_adapter, random_model
from reference import there

DTYPES = [torch.float32, torch.float64]


def batch(rows: int = 3, length: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def loss_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Plain cross entropy in the model's own dtype."""
    logits = model(input_ids=inputs["input_ids"]).logits[:, :-1]
    return nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), inputs["labels"][:, 1:].reshape(-1)
    )


@KERNELS
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rslora", [False, True])
def test_loss_and_gradients_equal_peft(
    family: str, dtype: torch.dtype, rslora: bool, stacked: bool
) -> None:
    base = random_model(family, dtype)
    scale = lora_scale(6.0, 3, "rslora" if rslora else "lora")
    names = AdaptedModel(random_model(family)).layers
    adapter = random_adapter(names, 3, scale=scale, dtype=dtype)
    peft = Peft(base, adapter, 6.0, rslora)
    ours = AdaptedModel(base)
    assert {layer.name for layer in ours.layers} == set(peft.factors)
    (trainable,) = ours.start([adapter], stacked=stacked).trainables
    inputs = batch()
    losses = [loss_of(ours, inputs), loss_of(peft.model, inputs)]
    for loss in losses:
        loss.backward()
    exact = dtype == torch.float64
    assert torch.allclose(losses[0], losses[1], atol=1e-12 if exact else 1e-6)
    for name, pair in trainable.pairs.items():
        right, left = peft.factors[name]
        for mine, theirs in (
            (there(pair.grad_bt).T, there(right.grad)),
            (there(pair.grad_a), there(left.grad)),
        ):
            off = float((mine - theirs).norm() / theirs.norm())
            assert off < (1e-12 if exact else 1e-5), name  # float32: rounding, two layers
            if exact:
                assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)
    assert set(trainable.pairs) == set(adapter)


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_adamw_steps_equal_peft(family: str) -> None:
    base = random_model(family, torch.float64)
    layers = AdaptedModel(random_model(family)).layers
    adapter = random_adapter(layers, 2, scale=2.0, dtype=torch.float64)
    peft = Peft(base, adapter, 4.0, False)
    ours = AdaptedModel(base)
    (trainable,) = ours.start([adapter]).trainables
    theirs = [p for p in peft.model.parameters() if p.requires_grad]
    for model, parameters in ((ours, [trainable.vector]), (peft.model, theirs)):
        optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)
        for step in range(20):
            optimiser.zero_grad(set_to_none=False)
            loss_of(model, batch(seed=step)).backward()
            optimiser.step()
    trained = trainable.trained(family)
    for name, (b, a) in peft.factors.items():
        assert torch.allclose(trained[name].b, b, atol=1e-6)
        assert torch.allclose(trained[name].a, a, atol=1e-6)
        assert trained[name].scale == 2.0
        assert not torch.allclose(trained[name].b, adapter[name].b, atol=1e-2)
    assert trained.base == family


@KERNELS
@pytest.mark.parametrize("family", FAMILIES)
def test_three_clients_at_once_equal_one_by_one(family: str, stacked: bool) -> None:
    ours = AdaptedModel(random_model(family, torch.float64))
    adapters = [
        random_adapter(ours.layers, rank, seed=rank, scale=1.0 / rank, dtype=torch.float64)
        for rank in (3, 1, 4)
    ]
    inputs = batch(rows=6)
    alone = []
    for k, adapter in enumerate(adapters):
        (trainable,) = ours.start([adapter]).trainables
        mine = {key: value[2 * k : 2 * k + 2] for key, value in inputs.items()}
        loss_of(ours, mine).backward()
        alone.append(trainable)
    together = ours.start(adapters, stacked=stacked).trainables
    logits = ours(input_ids=inputs["input_ids"]).logits[:, :-1]
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2), inputs["labels"][:, 1:], reduction="none"
    )
    losses.view(3, -1).mean(1).sum().backward()
    for one, both in zip(alone, together, strict=True):
        for name, pair in one.pairs.items():
            grad_a, grad_bt = there(pair.grad_a), there(pair.grad_bt)
            other = both.pairs[name]
            assert torch.allclose(grad_a, there(other.grad_a)[: pair.rank], atol=1e-12)
            assert torch.allclose(grad_bt, there(other.grad_bt)[: pair.rank], atol=1e-12)
            assert grad_a.any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_delta_is_cumulative_against_the_pristine_base(family: str, dtype: torch.dtype) -> None:
    base = random_model(family, dtype)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    ours = AdaptedModel(base)
    inputs = batch()
    plain = ours(input_ids=inputs["input_ids"]).logits
    adapter = random_adapter(ours.layers, 2, dtype=dtype)
    ours.start([adapter])
    expected = ours(input_ids=inputs["input_ids"]).logits
    ours.stop()
    delta = {name: factors.product() for name, factors in adapter.items()}
    ours.set_delta({name: part.scaled(3.0) for name, part in delta.items()})
    ours.set_delta(delta)
    assert torch.allclose(ours(input_ids=inputs["input_ids"]).logits, expected, atol=1e-4)
    ours.start([adapter], origin=True)
    assert torch.allclose(ours(input_ids=inputs["input_ids"]).logits, expected, atol=1e-4)
    ours.stop()
    first = ours.layers[0].name
    ours.set_delta({first: delta[first]})  # The others go back.
    assert not torch.equal(ours(input_ids=inputs["input_ids"]).logits, plain)
    ours.set_delta({})
    assert torch.equal(ours(input_ids=inputs["input_ids"]).logits, plain)
    after = {name.replace(".base.", "."): x for name, x in base.model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_targets_by_kind_name_and_glob() -> None:
    def names(*targets: str, family: str = "llama") -> list[str]:
        return [layer.name for layer in AdaptedModel(random_model(family), targets).layers]

    assert len(names("all-linear")) == 14
    assert names("q_proj") == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    assert len(names("attention", "q_proj")) == 8
    assert len(names("mlp")) == 6
    assert len(names("*.layers.1.*")) == 7
    assert names("lm_head") == ["lm_head"]  # Untied: an ordinary layer.
    assert names("model.layers.0.mlp.up_proj") == ["model.layers.0.mlp.up_proj"]
    assert names("attention", family="neox") == [
        f"gpt_neox.layers.{i}.attention.{x}" for i in (0, 1) for x in ("dense", "query_key_value")
    ]
    assert "transformer.h.0.attn.c_attn" in names("all-linear", family="gpt2")


@pytest.mark.parametrize(
    ("family", "target", "message"),
    [
        ("llama", "q_prj", "'?\"?q_prj\"? matches no layer of llama; did you mean 'q_proj'"),
        ("llama", "embed_tokens", "matches model.embed_tokens of llama, which is Embedding"),
        ("llama", "model.norm", "matches model.norm of llama, which is LlamaRMSNorm"),
        ("llama", "self_attn", "which is LlamaAttention and not linear-like"),
        ("llama", "*embed*", "matches model.embed_tokens of llama, which is Embedding"),
        ("gpt2", "wte", "matches transformer.wte of gpt2, which is Embedding"),
        ("gpt2", "lm_head", "output head lm_head of gpt2, whose weight is tied"),
    ],
)
def test_targets_are_refused_by_name(family: str, target: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        AdaptedModel(random_model(family), (target,))


def test_other_refusals() -> None:
    base = random_model("llama")
    with pytest.raises(ModelError, match="targets is empty"):
        AdaptedModel(base, ())
    AdaptedModel(base)
    with pytest.raises(ModelError, match="model llama is adapted already; load"):
        AdaptedModel(base)
    bare = BaseModel(nn.Sequential(nn.Embedding(3, 2)), None, "bare", 8)
    with pytest.raises(ModelError, match="model bare has no linear layers"):
        AdaptedModel(bare)


def test_expert_parameters_are_refused_by_name() -> None:
    config = transformers.MixtralConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        vocab_size=31,
    )
    model = transformers.MixtralForCausalLM(config).eval().requires_grad_(False)
    base = BaseModel(model, None, "moe", 64)
    experts = "model.layers.0.mlp.experts.(gate_up|down)_proj"
    with pytest.raises(
        ModelError,
        match=f'"all-linear" meets expert parameter {experts} of moe.*name the layers in targets',
    ):
        AdaptedModel(base)
    for target in ("down_proj", "experts", "mlp", "*.layers.0.*"):
        with pytest.raises(ModelError, match=f"matches expert parameter {experts} of moe"):
            AdaptedModel(base, (target,))
    assert len(AdaptedModel(base, ("attention",)).layers) == 4


def test_adapters_and_deltas_must_fit() -> None:
    ours = AdaptedModel(random_model("llama"), ("q_proj", "k_proj"))
    good = random_adapter(ours.layers, 2)
    name = ours.layers[0].name
    assert name == "model.layers.0.self_attn.k_proj"
    with pytest.raises(AdapterError, match="start got no adapter"):
        ours.start([])
    lacking = Adapter({key: value for key, value in good.items() if key != name})
    with pytest.raises(AdapterError, match=f"adapter 1 lacks layer {name}, one of 4"):
        ours.start([good, lacking])
    extra = Adapter({**good, "model.layers.9.self_attn.k_proj": good[name]})
    with pytest.raises(
        AdapterError, match=r"names layer model.layers.9.self_attn.k_proj, which is"
    ):
        ours.start([extra])
    wrong = Factors(torch.zeros(3, 1), torch.zeros(1, 24), 1.0)
    with pytest.raises(AdapterError, match=f"adapter 0, layer {name}: is for 3 × 24, expected 12"):
        ours.start([Adapter({**good, name: wrong})])
    with pytest.raises(AdapterError, match="delta names layer nonsense, which is not adapted"):
        ours.set_delta({"nonsense": LowRank.zero(3, 3)})
    with pytest.raises(AdapterError, match=f"delta of layer {name} is 3 × 3, expected 12 × 24"):
        ours.set_delta({name: LowRank.zero(3, 3)})


@KERNELS
def test_generation_works_while_adapters_are_carried(stacked: bool) -> None:
    ours = AdaptedModel(random_model("llama", torch.float64))
    adapters = [random_adapter(ours.layers, rank, seed=rank, scale=4.0) for rank in (2, 3)]
    prompts = torch.tensor([[3, 4, 5], [3, 4, 5]])
    model: Any = ours.model

    def told(rows: torch.Tensor) -> list[list[int]]:
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        return model.generate(rows, **options)[:, 3:].tolist()

    alone = []
    for adapter in adapters:
        ours.start([adapter])
        alone += told(prompts[:1])
    ours.start(adapters, stacked=stacked)
    assert told(prompts) == alone
    assert alone[0] != alone[1]
    ours.stop()
    assert told(prompts[:1])[0] != alone[0]
    assert ours.context == 64
    assert ours.tokenizer.pad_token_id == 0


def test_a_start_that_fails_half_way_leaves_the_model_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = AdaptedModel(random_model("llama"))
    ids = torch.tensor([[3, 4]])
    before = ours(input_ids=ids).logits
    made: list[Trainable] = []

    class Exhausted(Trainable):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            if len(made) == 2:
                raise torch.OutOfMemoryError("tried to allocate 3 GiB")
            super().__init__(*args, **options)

    monkeypatch.setattr("flexlora.models.adapted.Trainable", Exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        ours.start([random_adapter(ours.layers, 2)] * 3)
    assert torch.equal(ours(input_ids=ids).logits, before)
