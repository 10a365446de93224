"""Every reply is checked before it touches the state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from flexlora.adapters import Adapter, Factors, Sides, payload_adapter
from flexlora.adapters.sparse import payload_values
from flexlora.engines.jobs import Reply
from flexlora.errors import AdapterError, shown
from flexlora.evaluation import METRICS, ClientScore, Metric
from flexlora.formats.payloads import from_bytes

HEADER_ALLOWANCE_BYTES = 1 << 20
_SIDES = {"both": "both sides", "a": "a alone", "b": "b alone"}


def checked(
    reply: Reply,
    sent: Adapter,
    *,
    prunes: bool,
    sides: Sides = "both",
    metrics: Sequence[str] = (),
) -> Adapter:
    """The reply's adapter, if it is a trained form of what was `sent`.

    Checks, in this order: its size in bytes (before parsing), the layers, each layer's sides,
    shape, rank, dtypes and scale, finite values, and whose score it brings. Where the rule
    `prunes`, a rank may be lower than sent. `sides`: those that were asked for, and no others.
    Types and ranges of the rest are `opened`'s. Raises AdapterError that says what is wrong.
    """
    largest = 2 * sum(8 * (f.a.numel() + f.b.numel()) for f in sent.values())
    adapter = payload_adapter(
        from_bytes(reply.payload, limit_bytes=largest + HEADER_ALLOWANCE_BYTES)
    )
    if set(adapter) != set(sent):
        odd = sorted(set(adapter) ^ set(sent))
        raise AdapterError(
            f"the reply has {len(adapter)} layers, expected {len(sent)}; differing: {shown(odd[0])}"
        )
    for name, factors in adapter.items():
        if factors.sides != sides:
            found, expected = _SIDES[factors.sides], _SIDES[sides]
            raise AdapterError(f"layer {name} carries {found}, expected {expected}")
        if factors.shape != sent[name].shape:
            raise AdapterError(
                f"layer {name} has shape {factors.shape}, expected {sent[name].shape}"
            )
        low = 1 if prunes else sent[name].rank
        if not low <= factors.rank <= sent[name].rank:
            raise AdapterError(f"layer {name} has rank {factors.rank}, expected {sent[name].rank}")
        dtypes, expected = _dtypes(factors), _dtypes(sent[name])
        if dtypes != expected:
            raise AdapterError(f"layer {name} is stored as {dtypes}, expected {expected}")
        if factors.scale != sent[name].scale:
            raise AdapterError(
                f"layer {name} has scale {factors.scale}, expected {sent[name].scale}"
            )
    adapter.require_finite()
    if reply.score is not None:
        checked_score(reply.score, reply.client, metrics)
    return adapter


def checked_values(reply: Reply, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The reply's layer → values, if they are so many (layer → count) that can have been trained.

    Checks as `checked`, and that nothing was scored. Raises AdapterError that says what is wrong.
    """
    largest = 2 * sum(8 * count for count in counts.values())
    payload = from_bytes(reply.payload, limit_bytes=largest + HEADER_ALLOWANCE_BYTES)
    values = payload_values(payload, counts)
    if reply.score is not None:
        checked_score(reply.score, reply.client, ())
    return values


def checked_score(score: ClientScore, client: str, metrics: Sequence[str]) -> ClientScore:
    """The score, if it is this client's, of at least one example, of just these metrics, and within
    what each can be.

    Raises AdapterError that says what is wrong. Types and ranges are `opened`'s.
    """
    if score.client != client:
        raise AdapterError(f"the score is of client {shown(score.client)}, expected {client}")
    if score.examples < 1:
        raise AdapterError(f"the score is of {score.examples} examples, expected at least one")
    odd = sorted(set(score.means) ^ set(metrics))
    if odd:
        found = "has a value" if odd[0] in score.means else "has no value"
        raise AdapterError(
            f"the score {found} by {shown(odd[0])}; expected just {', '.join(metrics) or 'none'}"
        )
    for name, mean in score.means.items():
        metric = METRICS.get(name)
        if metric is not None and not metric.possible(mean, score.examples):
            raise AdapterError(
                f"the score by {name} is {shown(mean)}, but {name} is {_ends(metric)}"
            )
    return score


def _ends(metric: Metric) -> str:
    """What one example's score can be, in words."""
    ends = {"at least": metric.least, "at most": metric.most}
    told = " and ".join(f"{word} {x:g}" for word, x in ends.items() if math.isfinite(x))
    return f"{told} for each example" if metric.summed else told


def _dtypes(factors: Factors) -> str:
    return f"{factors.b.dtype} and {factors.a.dtype}"
