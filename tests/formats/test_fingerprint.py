"""One short text for many tensors."""

from __future__ import annotations

import torch

from flexlora.formats.fingerprint import fingerprint

PAIR = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0, 4)}


def test_equal_tensors_give_the_same_in_any_order_and_layout() -> None:
    turned = {"b": torch.zeros(0, 4), "a": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    assert fingerprint(PAIR.items()) == fingerprint(turned.items())
    assert len(fingerprint([])) == 64


def test_names_values_shapes_and_dtypes_count() -> None:
    a = PAIR["a"]
    others = [
        {"x": a, "b": PAIR["b"]},
        {"a": a + torch.tensor(1e-6), "b": PAIR["b"]},
        {"a": a.reshape(3, 2), "b": PAIR["b"]},
        {"a": a.double(), "b": PAIR["b"]},
        {"a": a, "b": torch.zeros(4, 0)},
        {"a": a},
    ]
    found = {fingerprint(x.items()) for x in (PAIR, *others)}
    assert len(found) == 1 + len(others)


def test_numbers_of_one_place_count_with_their_bits() -> None:
    one = fingerprint([("x", torch.tensor(0.0))])
    assert one != fingerprint([("x", torch.tensor(-0.0))])
