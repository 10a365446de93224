"""Which modules of a model's last layer may compute the read rows alone: found by trial."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from flexlora.models.lora import LoRALinear, linear_shape
from flexlora.models.read_rows import ReadRows, narrowed

_TOKENS, _READ = 6, (2, 5)  # Rows that are not read lie on both sides of one that is.


def find_rowwise(model: nn.Module) -> list[nn.Module]:
    """The modules of the last layer that may be narrowed, the largest there are.

    Found by trial: a row that is not read is made NaN where it enters and where it leaves such a
    module, and what is read must keep its bits; then the module gets the other rows alone.
    """
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    config: Any = getattr(model, "config", None)
    device = next(model.parameters()).device
    vocabulary = int(config.get_text_config().vocab_size)
    ids = torch.arange(1, _TOKENS + 1, device=device)[None] % vocabulary
    places = torch.tensor(_READ, device=device)

    def logits() -> Tensor:
        found: Tensor = model(input_ids=ids, use_cache=False).logits[0, places]
        return found

    found: list[nn.Module] = []
    waiting = [model]
    with torch.no_grad():
        wanted = logits()
        read = ReadRows(places, (len(places),), _TOKENS)
        while waiting:
            module = waiting.pop()
            if module is head or not any(map(linear_shape, module.modules())):
                continue
            if not _has_layers(module) and _stands_alone(module, read, logits, wanted):
                found.append(module)
            elif isinstance(module, nn.ModuleList):
                waiting.append(module[-1])
            elif not isinstance(module, LoRALinear):
                waiting += module.children()
    return found


def _has_layers(module: nn.Module) -> bool:
    """Whether these are many layers: they mix tokens, and to try them would take time."""
    return any(isinstance(x, nn.ModuleList) and len(x) > 0 for x in module.modules())


def _stands_alone(
    module: nn.Module, read: ReadRows, logits: Callable[[], Tensor], wanted: Tensor
) -> bool:
    calls = []

    def spoil(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        calls.append(len(rows))
        spoilt = torch.full_like(rows, torch.nan)
        spoilt[read.places] = rows[read.places]
        return spoilt.view(x.shape)

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (spoil(args[0]), *args[1:])

    def after(_module: nn.Module, _args: tuple[Any, ...], y: Tensor) -> Tensor:
        return spoil(y)

    tolerance = 0.05 if wanted.dtype in (torch.bfloat16, torch.float16) else 1e-4
    try:
        with ExitStack() as hooks:
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)
            if not torch.equal(logits(), wanted) or calls != [read.total] * 2:
                return False
        with narrowed([module], read, lambda _: None):
            off = (logits() - wanted).abs().max()
    # Whatever a module cannot do with its arguments, it is then left as it is.
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return bool(off <= tolerance * wanted.abs().max())
