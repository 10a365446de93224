"""Δ on the wire: an update says from which version to which, and comes back bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexlora.adapters import Delta, DeltaUpdate, Payload
from flexlora.adapters.delta import Patch
from flexlora.errors import AdapterError
from flexlora.formats.delta import layer_tensors, payload_update, tensor_layers, update_payload
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.lowrank import Dense, LowRank
from reference import gaussian

NAMES = ("layers.0.q", "a|left", "x.left|right", "ü")


@given(
    st.integers(10, 2**40),
    st.none() | st.integers(0, 9),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)),
)
def test_an_update_survives_the_wire(
    version: int, start: int | None, widths: dict[str, int]
) -> None:
    layers = {
        name: LowRank(gaussian(5, width, seed=width), gaussian(width, 4, seed=width + 9))
        for name, width in widths.items()
    }
    data = to_bytes(update_payload(DeltaUpdate(version, start, layers)))
    read = payload_update(from_bytes(data))
    assert (read.version, read.start, set(read.layers)) == (version, start, set(layers))
    for name, matrix in layers.items():
        assert torch.equal(read.layers[name].left, matrix.left)
        assert torch.equal(read.layers[name].right, matrix.right)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (4, 4)])
def test_a_matrix_beside_an_identity_travels_alone(shape: tuple[int, int]) -> None:
    """And is beside it again where it arrives, bit for bit."""
    held = Dense(gaussian(*shape, seed=1)).low_rank()
    update = DeltaUpdate(3, None, {"q": held})
    data = to_bytes(update_payload(update))
    assert update_payload(update).tensors.keys() == {"q|whole"}
    read = payload_update(from_bytes(data)).layers["q"]
    assert torch.equal(read.left, held.left)
    assert torch.equal(read.right, held.right)
    assert len(data) < 4 * shape[0] * shape[1] + 200
    delta = Delta(1, {"q": held}, (Patch(1, {"q": held}),))
    assert delta.nbytes == delta.patches[0].nbytes == 4 * shape[0] * shape[1]


def test_layers_of_several_kinds_lie_side_by_side() -> None:
    one = {"q": LowRank(gaussian(3, 1, seed=1), gaussian(1, 2, seed=2))}
    other = {"q": LowRank(gaussian(3, 2, seed=3), gaussian(2, 2, seed=4))}
    held = layer_tensors(one, "delta|") | layer_tensors(other, "patch|3|")
    assert tensor_layers(held, "delta|")["q"].width == 1
    assert tensor_layers(held, "patch|3|")["q"].width == 2
    assert tensor_layers(held, "patch|4|") == {}


ONE = torch.ones(2, 2)
GOOD: dict[str, Any] = {
    "schema": "delta",
    "tensors": {"q|left": ONE, "q|right": ONE},
    "meta": {"version": "3", "start": ""},
}
NO_UPDATE = "no update: it needs a version, an earlier one or none to start from"
INTEGERS = torch.ones(2, 2, dtype=torch.int32)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema": "factors"}, "payload is 'factors' version 1; expected 'delta' version 1"),
    ({"version": 2}, "payload is 'delta' version 2; expected 'delta' version 1"),
    ({"tensors": {"q|left": ONE}}, NO_UPDATE),
    ({"tensors": {"q|left": ONE, "q|right": torch.ones(3, 2)}}, NO_UPDATE),
    ({"tensors": {"q|left": ONE, "q|right": INTEGERS}}, NO_UPDATE),
    ({"tensors": {"q|left": INTEGERS, "q|right": ONE}}, NO_UPDATE),
    ({"tensors": {**GOOD["tensors"], "q": ONE}}, "holds tensors of no layer"),
    ({"tensors": {**GOOD["tensors"], "q|whole": ONE}}, "holds tensors of no layer"),
    ({"tensors": {"q|whole": INTEGERS}}, NO_UPDATE),
    ({"tensors": {"q|whole": torch.ones(2)}}, NO_UPDATE),
    ({"tensors": {"q|right": ONE}}, "holds tensors of no layer"),
    ({"meta": {"version": "3"}}, NO_UPDATE),
    *[
        ({"meta": {"version": version, "start": start}}, NO_UPDATE)
        for version, start in (
            *[(text, "") for text in ("three", "-3", " 1_0 ", "1.0", "٣", "03", "", "9" * 5000)],
            *[("3", text) for text in ("x", "-1", " ", "3", "7", "+1")],
        )
    ],
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=lambda x: str(x)[:30])
def test_what_is_no_update_is_refused(change: dict[str, Any], words: str) -> None:
    assert payload_update(Payload(**GOOD)).version == 3
    with pytest.raises(AdapterError, match=words):
        payload_update(Payload(**{**GOOD, **change}))
