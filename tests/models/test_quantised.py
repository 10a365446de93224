"""Bases in 4 and 8 bits: near the base they stand for, never merged into, each client its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flexlora.allocation.memory import weight_bytes
from flexlora.allocation.shape import ModelShape
from flexlora.errors import ConfigError, ModelError
from flexlora.models import AdaptedModel, load_model, model_fingerprint
from flexlora.models.quantised import is_quantised, quantise_options, scales
from flexlora.training import Trained, train, train_cohort
from models.layers import STACKED
from models.oracle import apart, plain_loss
from models.sentences import clients, embedded, examples
from models.test_devices import GPU
from pairs import pairs

for package in ("bitsandbytes", "accelerate"):
    pytest.importorskip(package, reason=f"{package} of the extra quant is not installed")

BITS = pytest.mark.parametrize("quantise", ["4bit", "8bit"])
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])


def loss(model: AdaptedModel) -> float:
    with torch.no_grad():
        return float(plain_loss(model.model, examples(model, 6, seed=2)))


@BITS
def test_the_linear_layers_are_quantised_and_the_rest_is_not(quantise: str) -> None:
    base = load_model("tiny", quantise=quantise)
    model: Any = base.model
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert is_quantised(module) == (module is not head)
    assert head.weight.dtype == torch.float32
    adapted, plain = AdaptedModel(base), AdaptedModel(load_model("tiny"))
    assert adapted.layers == plain.layers
    assert adapted.packs == plain.packs
    assert adapted.fan_in_fan_out == plain.fan_in_fan_out


@BITS
def test_a_layer_takes_the_bytes_that_a_plan_counts(quantise: str) -> None:
    """Packed, with its scales, as bitsandbytes holds it; tables of fixed size are too small to
    count: they are a few kilobytes a layer."""
    from transformers import BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear

    bfloat16, cpu = torch.bfloat16, torch.device("cpu")
    options = quantise_options(quantise, "x", bfloat16, cpu)["quantization_config"]
    assert isinstance(options, BitsAndBytesConfig)
    plain = nn.Sequential(nn.Linear(4096, 1024, bias=False), nn.Linear(1024, 4096, bias=False))
    numbers = 2 * 4096 * 1024
    weights = [
        layer.weight.detach().to(bfloat16) for layer in plain if isinstance(layer, nn.Linear)
    ]
    made: Any = replace_with_bnb_linear(plain, quantization_config=options)
    for layer, weight in zip(made, weights, strict=True):
        assert is_quantised(layer)
        kind: Any = type(layer.weight)
        told = {} if quantise == "8bit" else {"compress_statistics": True, "quant_type": "nf4"}
        layer.weight = kind(weight, requires_grad=False, **told).to(cpu)
    held = sum(x.nbytes for layer in made for x in layer.parameters())
    held += sum(x.nbytes for _, x in scales(made))
    shape = ModelShape("x", (), numbers, numbers, 0, 0, 0, 1, 0, 0)
    planned = weight_bytes(shape, "bfloat16", quantise)
    assert held == pytest.approx(planned, rel=0.002)
    assert planned < 0.52 * weight_bytes(shape, "bfloat16") * (1 if quantise == "8bit" else 0.51)


@BITS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_is_near_that_of_the_base(quantise: str, dtype: str) -> None:
    wanted = loss(embedded())
    found = loss(embedded(dtype=dtype, quantise=quantise))
    assert found == pytest.approx(wanted, rel=0.1 if quantise == "4bit" else 0.02)
    assert found != wanted


@DEVICES
@pairs(quantise=["4bit", "8bit"], stacked=STACKED, dropout=[0.0, 0.3])
def test_a_cohort_equals_one_by_one_and_learns(
    quantise: str, device: str, stacked: bool, dropout: float
) -> None:
    model = embedded(device=device, quantise=quantise)
    alone = [train(model, visit) for visit in clients(model, dropout=dropout)]
    together = train_cohort(model, clients(model, dropout=dropout), stacked=stacked)
    for one, other in zip(alone, together, strict=True):
        assert isinstance(other, Trained)
        assert apart(other.adapter, one.adapter) < (5e-3 if quantise == "4bit" else 0.02)
        assert other.last_loss < 0.9 * other.first_loss
        assert all(f.b.dtype == torch.float32 for f in other.adapter.values())


@BITS
def test_gradients_are_those_of_the_matrix_it_stands_for(quantise: str) -> None:
    """The base is asked for its own backward pass: nothing but rounding of activations differs."""
    quantised, dense = embedded(quantise=quantise), embedded()
    for name, layer in dense._wrapped.items():
        eye = torch.eye(layer.n)
        with torch.no_grad():
            layer.weight.copy_(quantised._wrapped[name].base(eye).T)
    found = []
    for model in (quantised, dense):
        carried = model.start([clients(model, 1)[0].adapter])
        plain_loss(model.model, examples(model, 4, seed=1)).backward()
        found.append(carried.trainables[0].gradient)
    limit = 1e-4 if quantise == "4bit" else 0.05
    assert float((found[0] - found[1]).norm()) < limit * float(found[1].norm())


@BITS
def test_delta_is_a_branch_and_the_bits_stay(quantise: str) -> None:
    model = embedded(quantise=quantise)
    before = model_fingerprint(model.model)
    first = loss(model)
    adapter = clients(model, 2)[1].adapter
    model.set_delta({name: factors.product() for name, factors in adapter.items()})
    assert model_fingerprint(model.model) == before
    with_delta = loss(model)
    model.set_delta({})
    assert loss(model) == first != with_delta
    model.start([adapter])
    assert loss(model) == pytest.approx(with_delta, abs=1e-4 if quantise == "4bit" else 1e-2)
    model.stop()


@BITS
def test_checkpointing_goes_with_it(quantise: str) -> None:
    kept, anew = (embedded(quantise=quantise, checkpointing=x) for x in (False, True))
    one, two = (train(x, clients(x, 1, dropout=0.3)[0]) for x in (kept, anew))
    assert one.loss == two.loss
    assert apart(one.adapter, two.adapter) == 0.0


@BITS
def test_the_fingerprint_knows_bits_and_scales(quantise: str) -> None:
    one, two = (load_model("tiny", quantise=quantise).model for _ in range(2))
    known = model_fingerprint(one)
    assert model_fingerprint(two) == known != model_fingerprint(load_model("tiny").model)
    one(input_ids=torch.arange(3, 9)[None])
    assert model_fingerprint(one) == known
    name, scale = next((n, s) for n, s in scales(two) if s.is_floating_point())
    assert name.startswith("model.layers.0.")
    scale.mul_(2.0)
    assert model_fingerprint(two) != known


def test_what_cannot_be_quantised_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"quantise of tiny is '4bits'; did you mean '4bit'"):
        load_model("tiny", quantise="4bits")
    quantised: Any = load_model("tiny", quantise="4bit").model
    quantised.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is quantised in its files already; set model.quantise"):
        load_model(tmp_path, quantise="8bit")
    with monkeypatch.context() as patch:
        patch.setattr("flexlora.extras.find_spec", lambda _: None)
        message = "is 8bit, but bitsandbytes and accelerate are not installed; .* flexlora.quant."
        with pytest.raises(ConfigError, match=message):
            load_model("tiny", quantise="8bit")
    monkeypatch.setattr("flexlora.models.device.devices", lambda: ("cpu", "mps"))
    with pytest.raises(ModelError, match=r"needs a CUDA GPU or the CPU, not mps; set model.device"):
        load_model("tiny", quantise="4bit", device="mps")
