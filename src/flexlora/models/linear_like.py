"""What counts as a linear layer, and which of them are a matrix and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flexlora.models.widened import WideLinear
from flexlora.shortage import out_of_memory


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(m outputs, n inputs) of a linear-like module: `nn.Linear`, or GPT-2's Conv1D (x @ W).

    bitsandbytes' layers are of the former, whatever the shape of their packed weights. None for
    any other module, and for a layer of the former's kind that gives something else than (…, m)
    for (…, n): routers and grouped layers of some mixtures of experts.
    """
    if isinstance(module, nn.Linear):
        own = type(module).forward not in (nn.Linear.forward, WideLinear.forward)
        if own and not type(module).__module__.startswith("bitsandbytes") and _odd(module):
            return None
        return module.out_features, module.in_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return weight.shape[1], weight.shape[0]
    return None


def _odd(module: nn.Linear) -> bool:
    """Whether it maps a row of zeros to anything but one row."""
    try:
        with torch.no_grad():
            found: object = module(module.weight.new_zeros(1, module.in_features))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if out_of_memory(error):
            raise
        return True
    return not isinstance(found, Tensor) or found.shape != (1, module.out_features)


def is_matrix(base: nn.Module) -> bool:
    """Whether a frozen layer is x Wᵀ + b and nothing else: no packed bits, no work of its own."""
    weight, kind = base.weight, type(base)
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():
        return False
    conv = kind.__name__ == "Conv1D" and base.bias is not None
    return kind in (nn.Linear, WideLinear) or conv
