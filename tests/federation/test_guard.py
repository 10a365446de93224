"""Nothing reaches the state but what was asked for."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save

from flexlora.adapters import Adapter, Factors, Payload, Sides, factors_payload
from flexlora.engines.jobs import Reply
from flexlora.errors import AdapterError
from flexlora.evaluation import ClientScore
from flexlora.federation import guard
from flexlora.formats.payloads import to_bytes
from reference import as_in_production, generator
from small import LAYERS, moved

NAME = LAYERS[0].name


def adapter(rank: int = 3) -> Adapter:
    def factors(m: int, n: int) -> Factors:
        draw = generator(m)
        return Factors(torch.randn(m, rank, generator=draw), torch.randn(rank, n), 4.0)

    return Adapter({layer.name: factors(layer.m, layer.n) for layer in LAYERS})


SENT = adapter()
GOOD = moved(SENT, 1)
WHOLE = to_bytes(factors_payload(GOOD))


def reply(payload: bytes, score: ClientScore | None = None) -> Reply:
    return Reply("1-0", "a", payload, 3, 1.0, 2, 20, 0.1, score)


def changed(change: Callable[[Factors], Factors]) -> bytes:
    return to_bytes(factors_payload(Adapter({**GOOD, NAME: change(GOOD[NAME])})))


def test_a_good_reply_comes_through_bit_for_bit() -> None:
    for prunes in (False, True):
        got = guard.checked(reply(to_bytes(factors_payload(GOOD))), SENT, prunes=prunes)
        assert got.ranks == SENT.ranks
        for name, factors in got.items():
            assert torch.equal(factors.a, GOOD[name].a)
            assert torch.equal(factors.b, GOOD[name].b)


def of_dtype(dtype: torch.dtype) -> bytes:
    """Not by `to_bytes`, which refuses to write some of what a stranger can send."""
    tensors = load(WHOLE)
    tensors[f"{NAME}.b"] = tensors[f"{NAME}.b"].to(dtype)
    metadata = json.loads(WHOLE[8 : 8 + int.from_bytes(WHOLE[:8], "little")])["__metadata__"]
    return save(tensors, metadata)


def poisoned(value: float) -> bytes:
    def change(f: Factors) -> Factors:
        b = f.b.clone()
        b[2, 1] = value
        return Factors(b, f.a, f.scale)

    return changed(change)


SHORT = to_bytes(factors_payload(Adapter({NAME: GOOD[NAME]})))
LONG = to_bytes(factors_payload(Adapter({**GOOD, "x.extra": moved(SENT, 2)[NAME]})))

BAD = [
    ("a layer is missing", SHORT, "has 1 layers, expected 2; differing: 'x.up_proj"),
    ("a layer too many", LONG, "has 3 layers, expected 2; differing: 'x.extra"),
    (
        "another shape",
        changed(lambda f: Factors(f.b[:-1], f.a, f.scale)),
        r"x.q_proj has shape \(5, 5\), expected \(6, 5\)",
    ),
    (
        "a higher rank",
        changed(lambda f: Factors(f.b.repeat(1, 2), f.a.repeat(2, 1), f.scale)),
        "x.q_proj has rank 6, expected 3",
    ),
    ("rank 0", changed(lambda f: f.cut(0)), "x.q_proj has rank 0, expected 3"),
    (
        "another scale",
        changed(lambda f: Factors(f.b, f.a, 4.5)),
        "x.q_proj has scale 4.5, expected 4.0",
    ),
    ("a scale that is NaN", changed(lambda f: Factors(f.b, f.a, math.nan)), "has scale nan"),
    (
        "integers",
        of_dtype(torch.int32),
        r"stored as torch.int32 and torch.float32, expected torch.float32 and",
    ),
    (
        "a dtype that arithmetic does not know",
        of_dtype(torch.float8_e4m3fn),
        "stored as torch.float8",
    ),
    (
        "complex numbers",
        of_dtype(torch.complex64),
        "stored as torch.complex64",
    ),
    ("NaN", poisoned(math.nan), "layer x.q_proj of the adapter holds NaN or infinity"),
    ("infinity", poisoned(-math.inf), "layer x.q_proj of the adapter holds NaN or infinity"),
    ("nothing", b"", "truncated or was not written by FlexLoRA"),
    ("cut short", WHOLE[:-5], "truncated or was not written by FlexLoRA"),
    ("cut in the header", WHOLE[:40], "truncated or was not written by FlexLoRA"),
    ("pickle", pickle.dumps({"x": torch.zeros(2)}), "truncated or was not written by FlexLoRA"),
    ("another schema", to_bytes(Payload("delta", {})), "payload is 'delta' version 1"),
    (
        "half of a pair",
        to_bytes(Payload("factors", {f"{NAME}.b": torch.zeros(6, 3)})),
        "payload layer 'x.q_proj' needs tensors b and a",
    ),
]


@pytest.mark.parametrize("prunes", [False, True])
@pytest.mark.parametrize(("payload", "message"), [c[1:] for c in BAD], ids=[c[0] for c in BAD])
def test_what_was_not_asked_for_is_refused(payload: bytes, message: str, prunes: bool) -> None:
    with as_in_production(), pytest.raises(AdapterError, match=message) as caught:
        guard.checked(reply(payload), SENT, prunes=prunes)
    assert "\n" not in str(caught.value)


def test_a_lower_rank_only_where_the_rule_prunes() -> None:
    payload = changed(lambda f: f.cut(2))
    assert guard.checked(reply(payload), SENT, prunes=True)[NAME].rank == 2
    with pytest.raises(AdapterError, match=r"layer x.q_proj has rank 2, expected 3"):
        guard.checked(reply(payload), SENT, prunes=False)


def test_what_is_too_large_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_data: bytes) -> None:
        pytest.fail("it was parsed")

    monkeypatch.setattr("flexlora.formats.payloads.load_bytes", parse)
    with pytest.raises(AdapterError, match=r"payload is 2000000 bytes, above the limit of"):
        guard.checked(reply(bytes(2_000_000)), SENT, prunes=False)


@pytest.mark.parametrize(
    ("false", "words"),
    [
        (ClientScore("a", "x", 0, {"loss": 1.0}), "of 0 examples, expected at least one"),
        (ClientScore("b", "x", 2, {"loss": 1.0}), "of client 'b', expected a"),
        (ClientScore("a", "x", 2, {"loss": 1.0, "rouge_l": 1.0}), "a value by 'rouge_l'; expected"),
        (ClientScore("a", "x", 2, {}), "no value by 'loss'; expected just loss"),
    ],
)
def test_a_false_score_beside_a_good_adapter_is_refused(false: ClientScore, words: str) -> None:
    good = ClientScore("a", "x", 2, {"loss": 1.0})
    assert guard.checked(reply(WHOLE, score=good), SENT, prunes=False, metrics=["loss"])
    with pytest.raises(AdapterError, match=f"the score .*{words}"):
        guard.checked(reply(WHOLE, score=false), SENT, prunes=False, metrics=["loss"])
    with pytest.raises(AdapterError, match="expected just none"):
        guard.checked(reply(WHOLE, score=good), SENT, prunes=False)


def test_one_side_alone_only_where_it_was_asked_for() -> None:
    half = to_bytes(factors_payload(GOOD.only("b")))
    got = guard.checked(reply(half), SENT, prunes=False, sides="b")
    assert {factors.sides for factors in got.values()} == {"b"}
    assert torch.equal(got[NAME].b, GOOD[NAME].b)
    cases: tuple[tuple[bytes, Sides, str], ...] = (
        (half, "both", "x.q_proj carries b alone, expected both sides"),
        (half, "a", "x.q_proj carries b alone, expected a alone"),
        (WHOLE, "b", "x.q_proj carries both sides, expected b alone"),
    )
    for payload, sides, message in cases:
        with pytest.raises(AdapterError, match=message):
            guard.checked(reply(payload), SENT, prunes=False, sides=sides)
    wide = Factors(GOOD[NAME].b, torch.zeros(3, 9), 4.0).only("b")
    payload = to_bytes(factors_payload(Adapter({**GOOD.only("b"), NAME: wide})))
    with pytest.raises(AdapterError, match=r"x.q_proj has shape \(6, 9\), expected \(6, 5\)"):
        guard.checked(reply(payload), SENT, prunes=False, sides="b")
