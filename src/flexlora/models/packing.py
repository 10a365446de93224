"""Many sequences in one row without padding: attention alone has to know where each begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional

from flexlora.models.widened import attended

# Tokens up to which a CPU's attention in float32 takes less time than torch's in bfloat16: 0.4 of
# it at 60 tokens, 0.6 at 180, as much at 250. It is the more exact one too.
_SHORT = 256
Attend = Callable[..., Tensor]  # (query, key, value[, places of the queries]) → what they see.
# ((query, key, value), lengths, attend, places or None for all) → what tokens of the row see there.
Over = Callable[[Sequence[Tensor], Sequence[int], Attend, Tensor | None], Tensor]
PACKED = "flexlora_packed"  # The name under which transformers knows this attention.
_SLIDING = "sliding_attention"
_UNDERSTOOD = {"full_attention", _SLIDING}
# What some layers ask of their attention beyond what ours does: caps, sinks, biases, a choice of
# keys.
_MORE = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")

# Of the row that a model is at, by its config's id. Not a context variable: activations that are
# made anew in the backward pass may be made by another thread.
_lengths: dict[int, tuple[int, ...]] = {}
_over: dict[int, Over] = {}  # Where sequences are not just apart, by a config's id too.
_windows: list[int | None] | None = None  # Where somebody wants to know which are told.
_asking: dict[int, Tensor] = {}  # Places in the row, by attention module; of others: all.


def can_pack(model: Any) -> bool:
    """True where nothing but attention mixes a row's tokens, and transformers lets us supply it.

    Asked of the model's class and config first, then of the model: two short sequences in one row
    must come out as they do one by one.
    """
    supported = getattr(model, "_supports_attention_backend", False) is True
    if not supported or model.config._attn_implementation != "sdpa":
        return False
    config: Any = model.config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or ())
    if not set(kinds) <= _UNDERSTOOD:
        return False
    ids = trial_ids(model, 7)
    first, second = ids[None, :4], ids[None, 4:]
    with torch.no_grad():
        apart = [model(input_ids=x, use_cache=False).logits for x in (first, second)]
        positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]], device=ids.device)
        try:
            with packed(model, (4, 3)), told() as windows:
                together = model(
                    input_ids=ids[None], position_ids=positions, use_cache=False
                ).logits
        except _NotOursError:
            return False
    known = sum(window is not None for window in windows)
    if _has_window(config) and known < (kinds.count(_SLIDING) if kinds else 1):
        return False
    return alike(together, torch.cat(apart, dim=1))


def trial_ids(model: Any, count: int) -> Int[Tensor, " t"]:
    """Tokens from the middle: over the first, which are often special, bfloat16 may round very
    differently."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    device = next(model.parameters()).device
    return (vocabulary // 2 + torch.arange(count, device=device)) % vocabulary


def alike(one: Tensor, other: Tensor) -> bool:
    """The same logits but for rounding."""
    tolerance = 0.05 if other.dtype in (torch.bfloat16, torch.float16) else 1e-4
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def _has_window(config: Any) -> bool:
    """Whether attention is to look back less far than a sequence may be long."""
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None)
    return window is not None and (longest is None or window < longest)


@contextmanager
def told() -> Iterator[list[int | None]]:
    """The windows that layers tell their attention while the block runs, one a call.

    A model that has its window in the mask alone tells none, and no trial of a few tokens, all
    within the window, would show that it is gone.
    """
    global _windows
    _windows = []
    try:
        yield _windows
    finally:
        _windows = None


@contextmanager
def packed(model: Any, lengths: Sequence[int], over: Over | None = None) -> Iterator[None]:
    """While the block runs (backward pass included), a row is sequences of these lengths.

    Give `position_ids` that count anew in each, and no attention mask. over: what attends, where
    sequences see more than themselves (see `branching`).
    """
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, _attention)
    found = {id(x.config): x.config for x in model.modules() if hasattr(x, "config")}
    configs: list[Any] = list(found.values())
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = PACKED
            _lengths[id(config)] = tuple(lengths)
            if over is not None:
                _over[id(config)] = over
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
            _lengths.pop(id(config), None)
            _over.pop(id(config), None)


@contextmanager
def asking(modules: Sequence[nn.Module], places: Int[Tensor, " p"]) -> Iterator[None]:
    """While the block runs, these modules' attention is right at these places of the row alone.

    It is zero in others where there is a call for each sequence; elsewhere it stays whole.
    """
    rising = places.sort().values
    for module in modules:
        _asking[id(module)] = rising
    try:
        yield
    finally:
        for module in modules:
            _asking.pop(id(module), None)


class _NotOursError(RuntimeError):
    """Attention that is more than causal, or less."""


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence; (1, heads, tokens, d) → (1, tokens, heads, d).

    Raises an error of its own for what it does not do, which `can_pack` meets first.
    """
    asked = [name for name in _MORE if more.get(name) is not None]
    if asked or more.get("is_causal") is False:
        raise _NotOursError(", ".join(asked) or "is_causal")
    if _windows is not None:
        _windows.append(sliding_window)
    lengths = _lengths[id(module.config)]
    apart = query.device.type == "cpu" or len(lengths) == 1
    over = _over.get(id(module.config), _one_by_one if apart else _side_by_side)
    options = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    attend = partial(_causal, window=sliding_window, options=options)
    places = _asking.get(id(module)) if apart else None
    # In one piece, as transformers' own attention is, for some models take views of it (JetMoe).
    return over((query, key, value), lengths, attend, places).transpose(1, 2).contiguous(), None


def _one_by_one(
    row: Sequence[Tensor], lengths: Sequence[int], attend: Attend, places: Tensor | None = None
) -> Tensor:
    """A call for each sequence: nothing is padded, nothing copied but the results."""
    if places is not None:
        return asked(row, lengths, attend, places)
    parts = zip(*(torch.split(x, list(lengths), dim=2) for x in row), strict=True)
    found = [attend(*part) for part in parts]
    return torch.cat(found, dim=2) if len(found) > 1 else found[0]


def asked(
    row: Sequence[Tensor],
    lengths: Sequence[int],
    attend: Attend,
    places: Tensor,
    paths: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """A call for each sequence with the queries at these places, rising; zero elsewhere.

    paths: the earlier pieces of the row that each goes on from (see `branching`); None: none.
    """
    query, key, value = row
    begins = [0, *accumulate(lengths)]
    cuts = torch.searchsorted(places, torch.tensor(begins, device=places.device))
    keys, values = (torch.split(x, list(lengths), dim=2) for x in (key, value))
    found = []
    for k, mine in enumerate(torch.split(places, cuts.diff().tolist())):
        if not len(mine):
            continue
        path = (*(paths[k] if paths else ()), k)
        own = mine - begins[k] + sum(lengths[j] for j in path[:-1])
        found.append(
            attend(query.index_select(2, mine), joined(keys, path), joined(values, path), own)
        )
    # As wide as values are, which queries need not be (DeepSeek-V3).
    out = query.new_zeros(*query.shape[:-1], value.shape[-1])
    return out.index_copy(2, places, torch.cat(found, dim=2)) if found else out


def joined(pieces: Sequence[Tensor], path: Sequence[int]) -> Tensor:
    """(1, heads, tokens, d) of these one after another; of one alone no copy."""
    return torch.cat([pieces[k] for k in path], dim=2) if len(path) > 1 else pieces[path[0]]


def _side_by_side(
    row: Sequence[Tensor], lengths: Sequence[int], attend: Attend, _: Tensor | None = None
) -> Tensor:
    """One call for all sequences, padded on the right for it alone; all places."""
    device, longest = row[0].device, max(lengths)
    counts = torch.tensor(lengths, device=device)
    ends = counts.cumsum(0)
    inside = torch.arange(longest, device=device)
    real = inside < counts[:, None]
    # Padded with its own last token: another's would let one sequence's NaN into the others.
    places = (ends - counts)[:, None] + inside.minimum(counts[:, None] - 1)
    found = attend(*(x[0][:, places].transpose(0, 1) for x in row))
    return found.transpose(0, 1)[:, real][None]


def _causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    places: Tensor | None = None,
    *,
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    """places: of the queries among the keys; None: there are as many of both."""
    length = key.shape[2]
    short = length <= _SHORT and query.device.type == "cpu"
    # A trial is held to transformers' attention, which is torch's in the model's own dtype: over
    # many layers what is rounded otherwise in bfloat16 comes out very different.
    if short and query.dtype == torch.bfloat16 and _windows is None:
        wide = (query.float(), key.float(), value.float())
        return _causal(*wide, places, window=window, options=options).to(query.dtype)
    attend = partial(_attend, places=places, window=window, options=options)
    return attended(attend, query, key, value)


def one_for_each(query: Tensor, shared: Tensor) -> Tensor:
    """Keys or values (1, fewer heads, tokens, d), of as many heads as there are queries."""
    return shared.repeat_interleave(query.shape[1] // shared.shape[1], dim=1)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    places: Tensor | None,
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    """In the dtype that they have."""
    length = key.shape[2]
    plain = places is None and (window is None or length <= window)
    # On CUDA flash alone takes fewer keys than queries, and neither float32 nor a mask; what torch
    # takes for these else holds all scores.
    fewer = key.shape[1] < query.shape[1]
    if fewer and query.is_cuda and (query.dtype == torch.float32 or not plain):
        key, value = (one_for_each(query, x) for x in (key, value))
        options = {**options, "enable_gqa": False}
    if plain:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    at = torch.arange(length, device=query.device)
    own = (at if places is None else places)[:, None]
    seen = at <= own
    if window is not None:
        seen &= at > own - window
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, **options)
