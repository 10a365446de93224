"""Adapters in 16 and 8 bits: right on average, within a step, and of the size that is promised."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import (
    Adapter,
    Factors,
    Payload,
    Wire,
    coarse_payload,
    factors_payload,
    payload_adapter,
    wire_of,
)
from flexlora.errors import AdapterError
from flexlora.formats.payloads import from_bytes, meta_of, to_bytes
from flexlora.seeds import seeded

COARSE: tuple[Wire, ...] = ("bfloat16", "int8")


def adapter(m: int = 40, n: int = 30, r: int = 3, dtype: torch.dtype = torch.float32) -> Adapter:
    draw = seeded(1)
    b, a = torch.randn(m, r, generator=draw), torch.randn(r, n, generator=draw)
    b[:, 0] *= 1e-6  # Components of other sizes.
    b[3:5] = 0.0
    return Adapter({"x": Factors(b.to(dtype), a.to(dtype), 0.5)})


def sent(given: Adapter, wire: Wire, seed: int = 0) -> Payload:
    """As it comes out of its bytes."""
    return from_bytes(to_bytes(coarse_payload(factors_payload(given), wire, seeded(seed))))


def step(x: torch.Tensor, wire: Wire, along: int) -> torch.Tensor:
    """The largest error of each number."""
    if wire == "int8":
        return (x.abs().amax(dim=along, keepdim=True) / 127).expand_as(x)
    return 2.0 ** (torch.floor(torch.log2(x.abs())) - 7)


@pytest.mark.parametrize("wire", COARSE)
def test_each_number_is_right_on_average_and_never_a_step_away(wire: Wire) -> None:
    given, times = adapter(), 400
    total = {"b": torch.zeros(40, 3).double(), "a": torch.zeros(3, 30).double()}
    for seed in range(times):
        found = payload_adapter(sent(given, wire, seed))["x"]
        for side, along in (("b", 0), ("a", 1)):
            x, y = getattr(given["x"], side), getattr(found, side)
            assert ((y - x).abs() <= step(x, wire, along) * 1.001).all()
            assert (y[x == 0] == 0).all()
            total[side] += y.double()
    for side, along in (("b", 0), ("a", 1)):
        x = getattr(given["x"], side)
        # Of a number, one draw's deviation is half a step at most: 5 of those of the mean.
        bound = 5 * step(x, wire, along).double() / 2 / times**0.5
        error = (total[side] / times - x.double()).abs()
        assert (error <= bound + 1e-12).all()


def test_rounding_to_the_nearest_would_not_pass() -> None:
    """The bound above tells a biased wire from this one."""
    x = adapter()["x"].b
    nearest = x.to(torch.bfloat16).float()
    bound = 5 * step(x, "bfloat16", 0) / 2 / 400**0.5
    assert ((nearest - x).abs() > bound)[x != 0].any()


@pytest.mark.parametrize(("wire", "share"), [("bfloat16", 1 / 2), ("int8", 1 / 4)])
def test_bytes_are_half_and_a_quarter_within_2_percent(wire: Wire, share: float) -> None:
    draw = seeded(1)
    layers = {
        f"layer.{i}": Factors(
            torch.randn(768, 64, generator=draw), torch.randn(64, 768, generator=draw), 0.5
        )
        for i in range(4)
    }
    exact = len(to_bytes(factors_payload(Adapter(layers))))
    coarse = len(to_bytes(coarse_payload(factors_payload(Adapter(layers)), wire, seeded(0))))
    assert coarse == pytest.approx(share * exact, rel=0.02)


@pytest.mark.parametrize("wire", COARSE)
def test_the_same_seed_gives_the_same_bytes(wire: Wire) -> None:
    payload = factors_payload(adapter())
    once, again, other = (
        to_bytes(coarse_payload(payload, wire, seeded(seed))) for seed in (1, 1, 2)
    )
    assert once == again != other
    assert wire_of(meta_of(once)) == wire


@pytest.mark.parametrize("wire", COARSE)
def test_what_is_not_finite_is_not_finite_afterwards(wire: Wire) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        b = torch.ones(4, 2)
        b[1, 1] = value
        found = payload_adapter(sent(Adapter({"x": Factors(b, torch.ones(2, 4), 1.0)}), wire))
        assert not torch.isfinite(found["x"].b[1, 1])


@pytest.mark.parametrize("wire", COARSE)
def test_half_precision_and_half_a_pair_stay_as_they_are(wire: Wire) -> None:
    given = adapter(dtype=torch.bfloat16)
    found = payload_adapter(sent(given, wire))["x"]
    assert torch.equal(found.b, given["x"].b)
    assert found.b.dtype == torch.bfloat16
    alone = payload_adapter(sent(adapter().only("b"), wire))["x"]
    assert alone.sides == "b"


@pytest.mark.parametrize(
    ("tensors", "meta", "told"),
    [
        ({"x.b": torch.ones(2, 1, dtype=torch.int8)}, {"wire": "int8"}, "needs a step a component"),
        (
            {"x.b": torch.ones(2, 1, dtype=torch.int8), "x.b.step": torch.ones(2)},
            {"wire": "int8"},
            "needs a step a component",
        ),
        ({"x.b": torch.ones(2, 1)}, {"wire": "bfloat16"}, "is torch.float32, expected bfloat16"),
        ({"x.b": torch.ones(2, 1)}, {"wire": "int2"}, "expected bfloat16 or int8"),
    ],
)
def test_a_foreign_one_is_told(
    tensors: dict[str, torch.Tensor], meta: dict[str, str], told: str
) -> None:
    with pytest.raises(AdapterError, match=told):
        payload_adapter(Payload("factors", tensors, {"x.scale": "1.0", **meta}))
