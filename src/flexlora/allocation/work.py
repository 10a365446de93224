"""What training takes of a processor, from sizes alone. Pure.

seconds of a step = products / speed + MOVED · bytes / bandwidth + CALL · operations

Products are those of the base, of its attention and of the branches; bytes are what all operations
read and write, as a step that is played without numbers says (`Footprint`), attention's scores
among them.
"""

from __future__ import annotations

from collections.abc import Mapping

from flexlora.allocation.devices import Device
from flexlora.allocation.memory import BYTES, Setting
from flexlora.allocation.shape import Footprint, ModelShape

MOVED = 1.5
"""How much longer a byte takes in a step than in a product number by number of plain blocks: many
operations step over what lies between, turn it round, or take exponentials. Measured on one cell
(benchmarks/cost_model.py)."""

CALL = 26e-6
"""Seconds of an operation beside what it computes: Python, torch and its allocator. Measured on one
cell alike, on a server's core."""

_WIDE = 4  # Bytes of an adapter's numbers, of logits and of scores, as they are computed.
_KEYS = 512  # That attention takes at a time: of a block that is not all to come, all are computed.
# How often a step reads or writes each of these, as its operations have them as arguments and
# results. With checkpointing the way there comes twice.
_NUMBER, _NUMBER_AGAIN = 13, 1  # An adapter's: products, gradient, its norm, the step.
_MOMENTS = 4  # More of them for AdamW's two.
_INNER, _INNER_AGAIN = 6, 2  # Of the inner products of branches.
_LOGIT = 10
_HEAD = 4  # The output head's weights: a row is tried before all others come.
_SCORE_THERE, _SCORE_BACK = 4, 10  # As if they were kept: what keeps none makes them anew.
# Operations of a layer for each further client, and of its loss and its step.
_BRANCH, _BRANCH_AGAIN = 6, 2
_CLIENT = 8


def _keys(setting: Setting) -> float:
    """That a query is multiplied with, on average."""
    return min(float(setting.length), (setting.length + _KEYS) / 2)


def base_operations(shape: ModelShape, setting: Setting, attended: float = 1.0) -> float:
    """Operations of the frozen model in one step, additions and multiplications both.

    Two for each number and token on the way there, and two on the way back, for its weights have
    no gradient. Attention is two products there and five back, for its scores are made anew.
    attended: see `Footprint`.
    """
    tokens = setting.tokens
    dense = 2.0 * shape.linear * tokens
    attention = 2.0 * shape.attention * _keys(setting) * tokens
    head = 4.0 * shape.head * tokens * setting.learnt
    passes = 3 if setting.checkpointing else 2
    return passes * dense + (2 * attended + 5) * attention + head


def branch_operations(shape: ModelShape, ranks: Mapping[str, int], setting: Setting) -> float:
    """Of the adapters: two for each number and token there, four back.

    Little beside the base's: that is why a lower rank saves hardly any time.
    """
    passes = 2 + 4 + (2 if setting.checkpointing else 0)
    return float(passes * shape.trainable(ranks) * setting.tokens)


def moved_bytes(
    shape: ModelShape, footprint: Footprint, ranks: Mapping[str, int], setting: Setting
) -> float:
    """That the operations of a step read and write, but for attention's scores.

    footprint: of this dtype, length and checkpointing; what it says is at rank 1, of one client
    and without logits.
    """
    again = setting.checkpointing
    one = dict.fromkeys(ranks, 1)
    more = setting.cohort * shape.trainable(ranks) - shape.trainable(one)
    often = _NUMBER + _NUMBER_AGAIN * again
    inner = sum(ranks[x.name] - 1 for x in shape.layers) * (_INNER + _INNER_AGAIN * again)
    numbers = more * often + setting.tokens * (inner + _LOGIT * setting.learnt * shape.vocabulary)
    if setting.optimiser == "adamw":
        numbers += _MOMENTS * setting.cohort * shape.trainable(ranks)
    head = _HEAD * shape.head * BYTES[setting.dtype]
    return footprint.moved * setting.tokens + footprint.moved_fixed + _WIDE * numbers + head


def score_bytes(shape: ModelShape, setting: Setting, attended: float = 1.0) -> float:
    """Of attention: one for each pair of tokens and head, in float32. attended: see `Footprint`."""
    often = _SCORE_THERE * attended + _SCORE_BACK
    return often * _WIDE * shape.heads * _keys(setting) * setting.tokens


def calls(shape: ModelShape, footprint: Footprint, setting: Setting) -> float:
    """Operations of a step, each of which takes its time however little it computes."""
    branch = _BRANCH + _BRANCH_AGAIN * setting.checkpointing
    more = (setting.cohort - 1) * (branch * len(shape.layers) + _CLIENT)
    return footprint.calls * setting.tokens + footprint.calls_fixed + more


def step_seconds(
    shape: ModelShape,
    footprint: Footprint,
    ranks: Mapping[str, int],
    setting: Setting,
    device: Device,
) -> float:
    """Of one step: see above. Branches are computed in float32. Unpacking 4 and 8 bits is not in
    it, nor that a GPU computes while its next operations are prepared."""
    attended = footprint.attended
    products = base_operations(shape, setting, attended) / device.speed(setting.dtype)
    products += branch_operations(shape, ranks, setting) / device.speed("float32")
    moved = moved_bytes(shape, footprint, ranks, setting) + score_bytes(shape, setting, attended)
    return products + MOVED * moved / device.bandwidth + CALL * calls(shape, footprint, setting)
