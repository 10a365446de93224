"""The rivals of cohort.py: one PEFT model, on which clients train one after another.

What they are spared: dropout, the KV cache that a model makes unasked, and a look at the loss
before the client is through.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from cohort_case import Client, length
from flexlora.adapters import Adapter
from flexlora.formats.peft_keys import pair_keys
from flexlora.models import BaseModel
from flexlora.tasks.prompts import Encoded

_IGNORED = -100  # transformers' label of a token that is not learnt.
State = dict[str, Tensor]


class PeftModel:
    """`get_peft_model` around a base model: all linear layers, at one rank."""

    def __init__(self, base: BaseModel, rank: int) -> None:
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of transformers, at what PEFT calls in it.
            self.model = get_peft_model(base.model, config).train()
        self.tokenizer = base.tokenizer
        self.pad: int = base.tokenizer.pad_token_id
        self.device = next(base.model.parameters()).device
        named = dict(self.model.named_parameters())
        kept = get_peft_model_state_dict(self.model)
        # A parameter's own name has the adapter's in it: ….lora_A.default.weight.
        self.factors: dict[str, nn.Parameter] = {
            key: named[key.replace(".weight", ".default.weight")] for key in kept
        }


def put(peft: PeftModel, adapter: Adapter) -> None:
    """From here on it computes with this one."""
    set_peft_model_state_dict(peft.model, _state(adapter))


def by_state_dict(peft: PeftModel, clients: Sequence[Client]) -> list[float]:
    """The usual loop: set the state, train, get the state. The clients' mean losses."""

    def put(state: State) -> None:
        set_peft_model_state_dict(peft.model, state)

    def take() -> State:
        return {x: t.detach().clone() for x, t in get_peft_model_state_dict(peft.model).items()}

    return _one_by_one(peft, clients, put, take)


def in_place(peft: PeftModel, clients: Sequence[Client]) -> list[float]:
    """The same loop, with adapters copied into the LoRA tensors and out of them."""

    @torch.no_grad()
    def put(state: State) -> None:
        for key, parameter in peft.factors.items():
            parameter.copy_(state[key])

    def take() -> State:
        return {key: parameter.detach().clone() for key, parameter in peft.factors.items()}

    return _one_by_one(peft, clients, put, take)


def _one_by_one(
    peft: PeftModel,
    clients: Sequence[Client],
    put: Callable[[State], None],
    take: Callable[[], State],
) -> list[float]:
    losses = []
    for client in clients:
        put(_state(client.adapter))
        losses.append(_train(peft, client))
        take()
    return losses


def _state(adapter: Adapter) -> State:
    return {
        key: side
        for name, factors in adapter.items()
        for key, side in zip(pair_keys(name), (factors.a, factors.b), strict=True)
    }


def _train(peft: PeftModel, client: Client) -> float:
    """The mean over all learnt tokens of all steps, as `Trained.loss`."""
    recipe, parameters = client.recipe, list(peft.factors.values())
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    assert recipe.clip_norm is not None
    losses, learnt = [], []
    for examples in client.batches():
        loss = peft.model(**padded(examples, peft.pad, peft.device), use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        losses.append(loss.detach())
        learnt.append(sum(len(x.response) for x in examples))
    weights = torch.tensor(learnt, dtype=torch.float64)
    return float((torch.stack(losses).double().cpu() * weights).sum() / weights.sum())


def padded(examples: Sequence[Encoded], pad: int, device: torch.device) -> dict[str, Tensor]:
    width = max(map(length, examples))
    ids, mask, labels = [], [], []
    for x in examples:
        rest = width - length(x)
        ids.append([*x.prompt, *x.response, *[pad] * rest])
        mask.append([1] * length(x) + [0] * rest)
        labels.append([_IGNORED] * len(x.prompt) + [*x.response] + [_IGNORED] * rest)
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.tensor(row, device=device) for name, row in rows.items()}
