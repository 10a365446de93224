"""Payloads: adapters cross bit for bit, and what is no adapter is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexlora.adapters import (
    FORMAT_VERSION,
    Adapter,
    Factors,
    Payload,
    Sides,
    factors_payload,
    payload_adapter,
)
from flexlora.errors import AdapterError
from reference import as_in_production, gaussian


def adapter() -> Adapter:
    return Adapter(
        {
            "model.layers.0.q_proj": Factors(gaussian(5, 2), gaussian(2, 4, seed=1), 1.0 / 3.0),
            "model.layers.0.b": Factors(
                gaussian(3, 1).bfloat16(), gaussian(1, 4, seed=2).bfloat16(), 16.0
            ),
        }
    )


def test_an_adapter_comes_back_bit_for_bit() -> None:
    sent = adapter()
    payload = factors_payload(sent)
    assert (payload.schema, payload.version) == ("factors", FORMAT_VERSION)
    got = payload_adapter(payload)
    assert list(got) == list(sent)
    for name, factors in sent.items():
        assert got[name].scale == factors.scale
        assert got[name].b.dtype == factors.b.dtype
        assert torch.equal(got[name].b, factors.b)
        assert torch.equal(got[name].a, factors.a)


def test_a_scale_computed_with_numpy_crosses_too() -> None:
    pair = Factors(torch.zeros(2, 1), torch.zeros(1, 2), np.float64(0.1))
    assert payload_adapter(factors_payload(Adapter({"x": pair})))["x"].scale == 0.1


def test_an_empty_adapter_crosses() -> None:
    assert len(payload_adapter(factors_payload(Adapter({})))) == 0


@pytest.mark.parametrize("sides", ["a", "b"])
def test_one_side_crosses_alone_and_says_how_large_the_other_is(sides: Sides) -> None:
    whole = adapter()
    payload = factors_payload(whole.only(sides))
    assert {key.rpartition(".")[2] for key in payload.tensors} == {sides}
    got = payload_adapter(payload)
    assert got.ranks == whole.ranks
    for name, factors in whole.items():
        assert got[name].sides == sides
        assert got[name].shape == factors.shape
        assert torch.equal(getattr(got[name], sides), getattr(factors, sides))


@pytest.mark.parametrize("size", ["", "two", "0", "-3", str(2**62)])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    for tensors in ({"x.b": torch.zeros(2, 1)}, {"x.b": torch.zeros(2)}):
        payload = Payload("factors", tensors, {"x.scale": "1.0", "x.n": size})
        with pytest.raises(
            AdapterError, match="layer 'x' needs tensors b and a, or one of them and the size"
        ):
            payload_adapter(payload)


@pytest.mark.parametrize("lost", ["x.b", "x.a"])
def test_half_of_a_pair_is_refused(lost: str) -> None:
    payload = factors_payload(Adapter({"x": Factors(torch.zeros(2, 1), torch.zeros(1, 2), 1.0)}))
    tensors = {key: value for key, value in payload.tensors.items() if key != lost}
    with pytest.raises(
        AdapterError, match="layer 'x' needs tensors b and a, or one of them and the size"
    ):
        payload_adapter(replace(payload, tensors=tensors))


@pytest.mark.parametrize("meta", [{}, {"x.scale": "two"}])
def test_a_missing_or_unreadable_scale_is_refused(meta: dict[str, str]) -> None:
    tensors = {"x.b": torch.zeros(2, 1), "x.a": torch.zeros(1, 2)}
    with pytest.raises(AdapterError, match=r"layer 'x' needs tensors b and a, .* and a scale"):
        payload_adapter(Payload("factors", tensors, meta))


@pytest.mark.parametrize("key", ["x.c", "x", "b"])
def test_a_tensor_that_is_no_factor_is_refused(key: str) -> None:
    payload = factors_payload(Adapter({"x": Factors(torch.zeros(2, 1), torch.zeros(1, 2), 1.0)}))
    tensors = {**payload.tensors, key: torch.zeros(1)}
    with pytest.raises(AdapterError, match=f"payload tensor '{key}' is no factor"):
        payload_adapter(replace(payload, tensors=tensors))


def test_factors_that_do_not_fit_are_refused_with_their_layer() -> None:
    tensors = {"x.b": torch.zeros(2, 1), "x.a": torch.zeros(2, 2)}
    fit = pytest.raises(AdapterError, match="layer 'x': factors need b")
    with as_in_production(), fit:
        payload_adapter(Payload("factors", tensors, {"x.scale": "1.0"}))


@pytest.mark.parametrize("place", ["layer", "tensor", "schema"])
def test_what_a_stranger_wrote_is_quoted_short_and_visibly(place: str) -> None:
    long = "\x1b[2J\u202e" + "y" * 500_000
    tensors = {f"{long}.b" if place == "layer" else long: torch.zeros(1, 1)}
    payload = Payload(long if place == "schema" else "factors", tensors)
    with pytest.raises(AdapterError) as caught:
        payload_adapter(payload)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()
    assert r"\x1b[2J\u202eyyy" in str(caught.value)


def test_another_schema_or_version_is_refused() -> None:
    payload = factors_payload(adapter())
    with pytest.raises(AdapterError, match="payload is 'sketch' version 1; expected 'factors'"):
        payload_adapter(replace(payload, schema="sketch"))
    with pytest.raises(
        AdapterError, match="payload is 'factors' version 2; expected 'factors' ver"
    ):
        payload_adapter(replace(payload, version=2))


def test_factors_that_do_not_fit_are_refused() -> None:
    tensors = {"x.b": torch.zeros(2, 1), "x.a": torch.zeros(3, 2)}
    with as_in_production(), pytest.raises(AdapterError, match="of one rank"):
        payload_adapter(Payload("factors", tensors, {"x.scale": "1.0"}))
