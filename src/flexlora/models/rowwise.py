"""What of a model's last layer may be left out for rows that are not read: found by trial."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from flexlora.models.linear_like import linear_shape
from flexlora.models.lora import LoRALinear
from flexlora.models.packing import alike, asking, packed
from flexlora.models.read_rows import ReadRows, narrowed
from flexlora.models.targets import output_head
from flexlora.shortage import out_of_memory

_TOKENS, _READ = 6, (2, 5)  # Rows that are not read lie on both sides of one that is.


def find_rowwise(model: nn.Module) -> list[nn.Module]:
    """The modules of the last layer that may be narrowed, the largest there are.

    Found by trial: a row that is not read is made NaN where it enters and where it leaves such a
    module, and what is read must keep its bits; then the module gets the other rows alone.
    """
    head = output_head(model)
    found: list[nn.Module] = []
    waiting = [model]
    with torch.no_grad():
        trial = _Trial(model)
        while waiting:
            module = waiting.pop()
            if module is head or not any(map(linear_shape, module.modules())):
                continue
            # The head picks its rows itself, and out of all (see training.loss).
            whole = _has_layers(module) or any(x is head for x in module.modules())
            if not whole and _stands_alone(module, trial):
                found.append(module)
            elif isinstance(module, nn.ModuleList):
                waiting.append(module[-1])
            elif not isinstance(module, LoRALinear):
                waiting += module.children()
    return found


def find_asking(model: nn.Module, rowwise: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules right around `rowwise` whose attention need not answer rows that are not read.

    Found by trial too: without those answers, what is read must stay as it is. For a model that
    can pack; a module without attention changes nothing and is among them.
    """
    inner = set(map(id, rowwise))
    around = [x for x in model.modules() if not inner.isdisjoint(map(id, x.children()))]
    with torch.no_grad(), packed(model, (_TOKENS,)):
        trial = _Trial(model)
        return [x for x in around if trial.same_within(asking([x], trial.read.places))]


class _Trial:
    """A few tokens through a model; some rows of its logits are read."""

    def __init__(self, model: nn.Module) -> None:
        config: Any = getattr(model, "config", None)
        device = next(model.parameters()).device
        vocabulary = int(config.get_text_config().vocab_size)
        self.model = model
        self.ids = torch.arange(1, _TOKENS + 1, device=device)[None] % vocabulary
        self.read = ReadRows(torch.tensor(_READ, device=device), (len(_READ),), _TOKENS)
        self.wanted = self.logits()

    def logits(self) -> Tensor:
        found: Tensor = self.model(input_ids=self.ids, use_cache=False).logits[0, self.read.places]
        return found

    def same_within(self, block: AbstractContextManager[None]) -> bool:
        """Whether what is read is the same, but for rounding, while the block runs."""
        with block:
            return alike(self.logits(), self.wanted)


def _has_layers(module: nn.Module) -> bool:
    """Whether these are many layers: they mix tokens, and to try them would take time."""
    return any(isinstance(x, nn.ModuleList) and len(x) > 0 for x in module.modules())


def _stands_alone(module: nn.Module, trial: _Trial) -> bool:
    calls, read = [], trial.read

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

    try:
        with ExitStack() as hooks:
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)
            if not torch.equal(trial.logits(), trial.wanted) or calls != [read.total] * 2:
                return False
        return trial.same_within(narrowed([module], read, lambda _: None))
    # Whatever a module cannot do with its arguments, it is then left as it is.
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if out_of_memory(error):
            raise
        return False
