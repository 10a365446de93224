"""What a rule gives is held to what was asked, before anybody trains on it and before it is kept.

Rules come from files that no test of ours has seen. What is wrong with their tensors would else be
told by whatever uses them first, and name neither the rule nor the layer. All raise RuleError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors
from flexlora.errors import AdapterError, RuleError, shown
from flexlora.lowrank import LowRank
from flexlora.rules.layer import Combined, Layer, Spec, State
from flexlora.rules.rule import Rule

Shape = tuple[int, int]
_CURE = "give factors b (m, r) and a (r, n) of every layer, r = client.rank(layer)"


def require_sent(
    rule: Rule,
    send: Callable[[], Adapter],
    spec: Spec,
    ranks: Mapping[str, int],
    client: str,
    round: int,
) -> Adapter:
    """What `send` gives for this client, if it is an adapter of these ranks (layer → rank): all
    layers of the spec and no others, of their shapes, floating and finite. A side may be absent.
    """
    told = f"send_layer of rule {rule.name}, for client {client} in round {round}"
    try:
        given = send()
    except AdapterError as error:  # Of factors that are none.
        raise RuleError(f"{told}: {error}") from error
    return _adapter(given, _shapes(spec), ranks, told, _CURE)


def require_received(rule: Rule, given: object, sent: Adapter, client: str) -> Adapter:
    """What `receive` makes of what was sent: the same layers, shapes and ranks, no side absent."""
    told = f"receive of rule {rule.name}, for client {client}"
    shapes = {name: factors.shape for name, factors in sent.items()}
    found = _adapter(given, shapes, sent.ranks, told, "give every layer at the rank that was sent")
    return _whole(found, told)


def require_encoded(rule: Rule, given: Adapter, received: Adapter, client: str) -> Adapter:
    """What `encode` returns of what was received: the same layers and shapes, of no other rank
    unless the rule prunes. A side may be absent."""
    told = f"encode of rule {rule.name}, for client {client}"
    shapes = {name: factors.shape for name, factors in received.items()}
    ranks = {**received.ranks, **given.ranks} if rule.traits.prunes else received.ranks
    return _adapter(given, shapes, ranks, told, "give every layer at the rank that was received")


def require_readout(rule: Rule, given: object, spec: Spec, ranks: Mapping[str, int]) -> Adapter:
    """What `readout` gives: every layer at exactly this rank, no side absent."""
    told = f"readout_layer of rule {rule.name}"
    cure = "give factors of just the rank that is asked for, filled up with zeros if need be"
    return _whole(_adapter(given, _shapes(spec), ranks, told, cure), told)


def require_begun(rule: Rule, given: State) -> State:
    """A state before round 1, if every layer's can be kept (see `require_combined`)."""
    for layer in given.spec.at(0):
        told = f"the first state of rule {rule.name}, layer {layer.name},"
        _state(given.layers[layer.name], told)
    for name, matrix in given.delta.layers.items():
        _matrix(matrix, _shapes(given.spec)[name], f"Δ of rule {rule.name}, layer {name},")
    return given


def require_combined(rule: Rule, given: object, layer: Layer) -> Combined:
    """A layer after a round, if it can be kept: at least one tensor, each under a name without "|"
    and finite where it is floating; Δ and its step of the layer's shape, if the traits have Δ.
    """
    told = f"combine_layer of rule {rule.name}, layer {layer.name} in round {layer.round},"
    if not isinstance(given, Combined):
        raise RuleError(f"{told} gives {_kind(given)}, expected flexlora.rules.Combined(state)")
    _state(given.state, told)
    for matrix in (given.frozen, given.step):
        if matrix is not None:
            _matrix(matrix, layer.shape, told)
    if given.frozen is not None and rule.traits.delta == "none":
        raise RuleError(
            f'{told} gives Δ (frozen), but its traits say delta="none"; declare another'
        )
    return given


def require_learned(rule: Rule, given: Mapping[str, LowRank], spec: Spec) -> Mapping[str, LowRank]:
    """Layer → all that was learned, if each is of the layer's shape and finite."""
    for name, shape in _shapes(spec).items():
        _matrix(given[name], shape, f"learned_layer of rule {rule.name}, layer {name},")
    return given


def _shapes(spec: Spec) -> dict[str, Shape]:
    return {layer.name: (layer.m, layer.n) for layer in spec.layers}


def _adapter(
    given: object, shapes: Mapping[str, Shape], ranks: Mapping[str, int], told: str, cure: str
) -> Adapter:
    if not isinstance(given, Adapter):
        raise RuleError(f"{told}: {_kind(given)} came, expected a flexlora.Adapter; {cure}")
    odd = sorted(given.keys() ^ shapes.keys())
    if odd:
        what = "is not adapted" if odd[0] in given else "is missing"
        raise RuleError(
            f"{told}: layer {shown(odd[0])} {what} ({len(given)} layers came, expected "
            f"{len(shapes)}); {cure}"
        )
    for name, factors in given.items():
        if not isinstance(factors, Factors):
            raise RuleError(f"{told}: layer {name} is {_kind(factors)}, expected Factors; {cure}")
        if factors.shape != shapes[name]:
            (m, n), (wanted_m, wanted_n) = factors.shape, shapes[name]
            raise RuleError(
                f"{told}: layer {name} is {m} × {n}, expected {wanted_m} × {wanted_n}; {cure}"
            )
        if factors.rank != ranks[name]:
            raise RuleError(
                f"{told}: layer {name} has rank {factors.rank}, expected {ranks[name]}; {cure}"
            )
        for side in (factors.b, factors.a):
            if not side.is_floating_point():
                raise RuleError(f"{told}: layer {name} is {side.dtype}, expected float32; {cure}")
        if not factors.finite():
            raise RuleError(
                f"{told}: layer {name} holds NaN or infinity, expected finite values; {cure}"
            )
    return given


def _whole(given: Adapter, told: str) -> Adapter:
    for name, factors in given.items():
        if factors.sides != "both":
            raise RuleError(f"{told}: layer {name} has {factors.sides} alone; fill the other side")
    return given


def _state(given: object, told: str) -> None:
    if not isinstance(given, Mapping) or not given:
        what = "an empty state" if isinstance(given, Mapping) else f"{_kind(given)} as its state"
        raise RuleError(f"{told} gives {what}, expected a mapping of names to tensors")
    for key, tensor in given.items():
        if not isinstance(key, str) or "|" in key or not key:
            raise RuleError(f'{told} names a tensor {shown(key)}; give a text without "|"')
        if not isinstance(tensor, Tensor):
            raise RuleError(f"{told} holds {_kind(tensor)} as {key!r}, expected a tensor")
        if tensor.is_floating_point() and not _finite(tensor):
            raise RuleError(f"{told} holds NaN or infinity in {key!r}, expected finite values")


def _matrix(given: object, shape: Shape, told: str) -> None:
    if not isinstance(given, LowRank):
        raise RuleError(
            f"{told} gives {_kind(given)}, expected a LowRank of {shape[0]} × {shape[1]}"
        )
    if given.shape != shape:
        (m, n), (wanted_m, wanted_n) = given.shape, shape
        raise RuleError(f"{told} gives a matrix of {m} × {n}, expected {wanted_m} × {wanted_n}")
    if not (_finite(given.left) and _finite(given.right)):
        raise RuleError(f"{told} gives a matrix with NaN or infinity, expected finite values")


def _finite(x: Tensor) -> bool:
    return math.isfinite(x.sum()) or bool(torch.isfinite(x).all())


def _kind(given: object) -> str:
    return f"a {type(given).__name__}"
