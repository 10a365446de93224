"""What looks like a layer to adapt and is none: fused experts, and weights that are read past."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.conv import _ConvNd

from flexlora.adapters import LayerSpec

# The list of PEFT's own check (`_check_lora_target_modules_mamba`), which is by name alone.
_PEFT_REFUSES = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


def experts(model: nn.Module) -> Iterator[LayerSpec]:
    """Weights of many experts in one 3-D parameter, by parameter name (shape of one expert).

    transformers calls the modules that hold them so. Other parameters of three dimensions are
    none: what RWKV mixes tokens by, gates in blocks, the probe that pools an image.
    """
    for owner, module in model.named_modules():
        kind = type(module).__name__.lower()
        if ("expert" in kind or "moe" in kind) and not isinstance(module, _ConvNd):
            for name, parameter in module.named_parameters(owner, recurse=False):
                if parameter.ndim == 3:
                    yield LayerSpec(name, *parameter.shape[1:])


def read_past(model: nn.Module, layer: LayerSpec) -> str | None:
    """Why no adapter works on this linear layer, as a clause; None where one does.

    Model code that takes a layer's weight, and does not call the layer, passes over any adapter,
    PEFT's as ours: nothing is learnt there, and what is written there is not read. So it is with
    `dt_proj` of the first Mamba, Falcon Mamba and Jamba, and with LongCat's router. `out_proj` of
    state-space layers goes to kernels so while they train, and PEFT refuses to load it.
    """
    owner, _, last = layer.name.rpartition(".")
    parent = model.get_submodule(owner)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if last == "out_proj" and kind in _PEFT_REFUSES:
        return "whose weight state-space kernels read past any adapter, so that PEFT refuses it"
    if last == "dt_proj" and hasattr(parent, "A_log"):
        return "whose weight its state-space layer reads past any adapter"
    if last == "classifier" and "router" in type(parent).__name__.lower():
        return "whose weight its router reads past any adapter"
    return None
