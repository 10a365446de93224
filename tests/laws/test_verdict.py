"""Verdicts: figures, counterexamples that can be read, and whatever an aggregator may do."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from flexlora.laws import CASES, LAWS, Given, Sent, hold, hold_all


def giving(what: Callable[[Sequence[Sent], Mapping[str, int]], Any]) -> Callable[[], Any]:
    """What makes aggregators that give this."""

    class Giving:
        def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> Any:
            return what(sent, ranks)

    return Giving


def echo(sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
    """Everybody gets what the last client sent, twice as large."""
    return dict.fromkeys(ranks, (2.0 * sent[-1].b, sent[-1].a, sent[-1].scale))


def test_a_counterexample_says_what_went_in_what_was_expected_and_what_came() -> None:
    verdict = hold(giving(echo), LAWS["alone"])
    assert verdict.error == pytest.approx(1.0, rel=1e-6)
    where, went_in, who, expected, came, error = verdict.counterexample
    assert where == "the first round of a layer of 4 × 4; ranks: ann 4"
    assert went_in.startswith("ann sends rank 4, scale 2, weight 3: ΔW [")
    assert who == "nobody else is there; ann gets"
    (one, two) = (line.partition("[")[2].split()[0] for line in (expected, came))
    assert float(two) == pytest.approx(2.0 * float(one), rel=0.01)
    assert error == "relative error 1"


def test_a_large_matrix_is_told_by_size_and_norm() -> None:
    (large,) = (x for x in CASES if x.m == 12 and not x.later)
    told = "\n".join(hold(giving(echo), LAWS["alone"], [large]).counterexample)
    assert "expected  of 12 × 14, norm " in told
    assert max(map(len, told.splitlines())) < 120


def test_the_same_each_time() -> None:
    assert hold_all(giving(echo)) == hold_all(giving(echo))


def test_an_excused_law_is_measured_but_not_asked() -> None:
    (_, verdict, *_) = hold_all(giving(echo), {"alone": "it doubles"})
    assert (verdict.standing, verdict.excuse) == ("by design", "it doubles")
    assert verdict.error == pytest.approx(1.0, rel=1e-6)


def test_a_tolerance_can_be_given() -> None:
    assert hold(giving(echo), LAWS["alone"], tolerance=1.1).standing == "holds"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda *_: 1 / 0, "it raised ZeroDivisionError: division by zero"),
        (lambda *_: sys.exit("enough"), "it raised SystemExit: enough"),
        (
            lambda *_: [],
            "aggregate gave a list; give a mapping of client to (b, a, scale)",
        ),
        (lambda *_: {}, "client ann was given None; give (b, a, scale) with b 4 × r"),
        (
            lambda sent, ranks: dict.fromkeys(ranks, (sent[0].a[:, :2], sent[0].a, 1.0)),
            "client ann was given b 4 × 2 and a 4 × 4; give (b, a, scale)",
        ),
        (
            lambda sent, ranks: dict.fromkeys(ranks, (3.0, sent[0].a, 1.0)),
            "client ann was given b of one number and a 4 × 4; give",
        ),
        (
            lambda sent, ranks: dict.fromkeys(ranks, ("b", sent[0].a, 1.0)),
            "client ann was given no numbers (",
        ),
        (
            lambda sent, ranks: dict.fromkeys(ranks, (sent[0].b * math.nan, sent[0].a, 1.0)),
            "client ann was given NaN or infinity",
        ),
    ],
)
def test_what_is_no_answer_fails_and_is_told(
    given: Callable[[Sequence[Sent], Mapping[str, int]], Any], words: str
) -> None:
    verdict = hold(giving(given), LAWS["alone"])
    assert verdict.standing == "fails"
    assert verdict.error == math.inf
    assert words in verdict.counterexample[-1]


def test_numpy_arrays_and_lists_are_taken_and_inputs_are_copies() -> None:
    def spoilt(sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
        b, a = sent[0].b.numpy().copy(), sent[0].a.tolist()
        assert isinstance(b, np.ndarray)
        for x in sent:
            x.b.zero_()
            x.a.zero_()
        return dict.fromkeys(ranks, (b, a, sent[0].scale))

    assert hold(giving(spoilt), LAWS["alone"]).standing == "holds"


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    hold(giving(echo), LAWS["basis"])
    assert torch.equal(torch.get_rng_state(), before)
