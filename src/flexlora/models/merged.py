"""A base model with an adapter's update inside its weights, for whoever reads no adapters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors
from flexlora.errors import AdapterError, FlexLoRAError, ModelError
from flexlora.formats.atomic import atomic_folder, require_free
from flexlora.formats.home import expanded
from flexlora.formats.space import require_space
from flexlora.formats.stored_dtype import dtype_named, require_held
from flexlora.models.base import BaseModel, load_model, model_fingerprint, quiet
from flexlora.models.lora import require_bare
from flexlora.models.made_for import base_fingerprint, require_made_for
from flexlora.models.quantised import is_quantised
from flexlora.models.targets import find_layers
from flexlora.models.tied import tied_modules
from flexlora.models.weights import first_line

_ALONE = "write the adapter alone, and use it beside its base model"


def save_merged(
    adapter: Adapter,
    folder: Path | str,
    *,
    base: BaseModel | Path | str | None = None,
    dtype: str | None = None,
) -> float:
    """Write W₀ + ΔW as a new model folder, whole or not at all: no reader needs PEFT for it.

    base: the model, or its name or folder; None for the one that the adapter names. A name is
    loaded on the CPU, in the precision that the adapter was trained on, where it tells (else in
    float32). A model that is given is the same afterwards, bit for bit. dtype: "float32",
    "bfloat16" or "float16" for all weights; None for what the model has once it is loaded.

    Each adapted weight is summed in float64 and rounded once; all others stay, but for a dtype
    that is asked for. Conv1D (GPT-2) gets its own orientation. Beside the weights lie config,
    generation config and tokenizer, as transformers saves them; a tokenizer that came without a
    pad token has its EOS token for one. Memory: the model, once more where it is given, and one
    layer in float64. Returns what rounding took: ‖written − (W₀ + ΔW)‖_F / ‖ΔW‖_F, 0 for a ΔW of
    zeros. In 16 bits that may be much, for ΔW is small beside W₀.

    Raises ModelError for a base in 4 or 8 bits, one that is adapted already, one that cannot be
    loaded, or not again once it is saved; AdapterError for layers or shapes that it does not have,
    an adapter made for other weights, a layer whose weight another module shares (a tied output
    head), and a value that the dtype cannot hold; RunError when the folder exists; FlexLoRAError
    for a disk that is too small.
    """
    stored = dtype_named(dtype)
    target = expanded(folder)
    require_free(target)
    if not adapter:
        raise AdapterError("the adapter has no layers; there is nothing to merge")
    adapter.require_finite()
    given = isinstance(base, BaseModel)
    held = base if isinstance(base, BaseModel) else _loaded(adapter, base)
    _require_fit(adapter, held)
    model: Any = held.model
    require_space(target, sum(_bytes(x, stored) for x in model.parameters()))
    with _restored(model) if given else nullcontext():
        lost = [
            _add(f"layer {name} of {target}", model.get_submodule(name), factors, stored)
            for name, factors in adapter.items()
        ]
        if stored is not None:
            merged = {id(model.get_submodule(name).weight) for name in adapter}
            for name, parameter in model.named_parameters():
                if parameter.is_floating_point() and id(parameter) not in merged:
                    require_held(f"parameter {name} of {target}", (parameter.data,), stored)
                    parameter.data = parameter.data.to(stored)
        with atomic_folder(target) as aside, quiet():
            _save(held, aside, target)
    norm = math.hypot(*(factors.product().norm() for factors in adapter.values()))
    return math.hypot(*lost) / norm if norm else 0.0


def _loaded(adapter: Adapter, name: Path | str | None) -> BaseModel:
    name = name or adapter.base
    if not name:
        raise AdapterError("the adapter names no base model; give one as base")
    precision = adapter.base_fingerprint.partition(":")[0] or "float32"
    plain, _, bits = precision.partition("-")
    if bits:
        raise ModelError(
            f"the adapter was trained on {name} in {bits}, and weights in so few bits take no sum; "
            f'{_ALONE}, or give base=load_model("{name}", "{plain}") in Python to merge it into '
            "weights that it has not seen"
        )
    return load_model(name, precision)


def _require_fit(adapter: Adapter, base: BaseModel) -> None:
    """Raise for a base that takes no sum, and for an adapter that is of another."""
    from transformers import AutoModelForCausalLM

    model: Any = base.model
    require_bare(model, base.name)
    if type(model.config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model {base.name} is a {type(model).__name__}, part of a larger model, which nobody "
            f"can load alone; {_ALONE}"
        )
    inside = getattr(model.config, "quantization_config", None) is not None
    if inside or any(map(is_quantised, model.modules())):
        raise ModelError(f"model {base.name} is quantised, and its weights take no sum; {_ALONE}")
    if any(x.is_meta for x in model.parameters()):
        raise ModelError(f"model {base.name} was loaded without its weights; load it with them")
    for name, others in tied_modules(model).items():
        if name in adapter:
            raise AdapterError(
                f"layer {name} of the adapter has one weight with {others[0]} in {base.name}, "
                f"which would change too; {_ALONE}"
            )
    made = f"the adapter was made for {adapter.base or 'another model'}, not for {base.name}"
    try:
        layers = {x.name: (x.m, x.n) for x in find_layers(model, base.name, tuple(adapter))}
    except ModelError as error:
        raise AdapterError(f"{made}: {error}") from error
    for name, factors in adapter.items():
        if factors.shape != layers[name]:
            (m, n), (rows, columns) = factors.shape, layers[name]
            raise AdapterError(f"{made}: layer {name} is {m} × {n} there, {rows} × {columns} here")
    if adapter.base_fingerprint:
        precision = str(model.dtype).removeprefix("torch.")
        known = base_fingerprint(precision, model_fingerprint(model))
        require_made_for(adapter, base.name, known, "give the model that it was made for")


def _bytes(parameter: Tensor, dtype: torch.dtype | None) -> int:
    size = parameter.itemsize if dtype is None else dtype.itemsize
    return parameter.numel() * size


def _add(where: str, module: Any, factors: Factors, dtype: torch.dtype | None) -> float:
    """W ← W + scale · b a, in float64 on the CPU (not every device has it), rounded once.

    Returns the norm of what rounding took.
    """
    weight = module.weight
    b, a = (x.cpu().double() for x in (factors.b, factors.a))
    total = weight.data.cpu().to(torch.float64, copy=True)
    turned = total if isinstance(module, nn.Linear) else total.T  # Conv1D has (n, m).
    turned.addmm_(b, a, alpha=factors.scale)
    stored = dtype or weight.dtype
    require_held(where, (total,), stored)
    rounded = total.to(stored)
    weight.data = rounded.to(weight.device)
    return float(total.sub_(rounded).norm())


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """When the block ends, weights are what they were, and what saving notes in the config too."""
    held = [(parameter, parameter.data) for parameter in model.parameters()]
    noted = (model.config.dtype, model.config.architectures)
    try:
        yield
    finally:
        for parameter, data in held:
            parameter.data = data
        model.config.dtype, model.config.architectures = noted


def _save(base: BaseModel, aside: Path, target: Path) -> None:
    model: Any = base.model
    try:
        model.save_pretrained(aside)
        base.tokenizer.save_pretrained(aside)
        for file in aside.glob("*.safetensors"):  # Which safetensors makes for this user alone.
            file.chmod((aside / "config.json").stat().st_mode)
    except SafetensorError as error:  # What the disk refuses, it calls so.
        raise FlexLoRAError(
            f"cannot write {target}: {first_line(error)}; free space there or choose another folder"
        ) from error
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"model {base.name} cannot be saved by transformers: {first_line(error)}; {_ALONE}"
        ) from error
