"""The door of outcomes: what has other types or ranges than it should is a failure."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from federation.malformed import BAD, BAD_SCORES, GOOD, SCORE, SCORED, Hostile
from flexlora.config.schedule import MOST_EXAMPLES
from flexlora.engines.jobs import Failure, Reply, Scored
from flexlora.evaluation import ClientScore
from flexlora.federation.on_clients import summary
from flexlora.federation.outcomes import MOST_TOKENS, Known, opened

NAMES = {"1-0", "a"}
KNOWN = Known({"a": 3}, {"a": 2})


def test_what_is_as_it_should_be_comes_through_itself() -> None:
    failed = Failure("1-0", "a", "its disk\nis full")
    for outcome in (GOOD, SCORED, failed, replace(GOOD, score=None, seconds=0, loss=-2)):
        assert opened(outcome, KNOWN, NAMES) == outcome or opened(outcome, KNOWN, NAMES) is outcome


def reason(outcome: object) -> str:
    """Of the failure that it is taken for; its job and client are as they were."""
    found = opened(outcome, KNOWN, NAMES)
    assert isinstance(found, Failure)
    assert (found.job, found.client) == ("1-0", "a")
    return found.reason


@pytest.mark.parametrize(("change", "words"), BAD, ids=lambda x: str(x)[:40])
def test_a_reply_of_other_types_or_ranges_is_a_failure(change: dict[str, Any], words: str) -> None:
    assert re.search(f"^a malformed answer: .*{words}", reason(replace(GOOD, **change)))


@pytest.mark.parametrize(("change", "words"), BAD_SCORES, ids=lambda x: str(x)[:40])
def test_a_score_of_other_types_or_ranges_is_a_failure(change: dict[str, Any], words: str) -> None:
    false = replace(SCORE, **change)
    for outcome in (replace(GOOD, score=false), replace(SCORED, score=false)):
        assert re.search(words, reason(outcome))


@pytest.mark.parametrize("given", [None, 3, "x", [], object(), Hostile(), Reply, ValueError("x")])
def test_what_is_no_outcome_is_a_failure(given: object) -> None:
    found = opened(given, KNOWN, NAMES)
    assert isinstance(found, Failure)
    assert "neither a reply, nor a score, nor a failure" in found.reason


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (None, "<NoneType>"),
        (["1-0"], "<list>"),
        ({}, "<dict>"),
        ("\ud800x", "\\ud800x"),
        ("\x1b[2J\u2028\u202e", "\\x1b[2J\\u2028\\u202e"),
        ("x" * 10**6, "x" * 199 + "…"),
        ("Zoë 巴黎", "Zoë 巴黎"),
    ],
    ids=lambda x: str(x)[:10].encode("ascii", "backslashreplace").decode(),
)
def test_foreign_names_are_ones_that_can_be_written_down(name: Any, written: str) -> None:
    for outcome in (GOOD, SCORED, Failure("1-0", "a", "x")):
        assert opened(replace(outcome, client=name), KNOWN, NAMES).client == written
        assert opened(replace(outcome, job=name), KNOWN, NAMES).job == written
    found = opened(Failure("1-0", "a", name), KNOWN, NAMES)
    assert isinstance(found, Failure)
    found.reason.encode()
    assert found.reason.isprintable()


def test_a_client_of_ours_may_be_called_what_it_likes() -> None:
    for name in ("\x1b[2J", "\ud800", "x" * 10**4):
        assert opened(replace(SCORED, client=name), KNOWN, {"1-0", name}).client == name


def test_examples_count_up_to_what_is_known_of_the_client() -> None:
    """Else one that says a million has the average to itself."""
    greedy = replace(GOOD, examples=10**6, score=replace(SCORE, examples=10**6))
    found = opened(greedy, KNOWN, NAMES)
    assert isinstance(found, Reply)
    assert found.score is not None
    assert (found.examples, found.score.examples) == (3, 2)
    unknown = opened(greedy, Known(), NAMES)
    assert isinstance(unknown, Reply)
    assert unknown.score is not None
    assert (unknown.examples, unknown.score.examples) == (MOST_EXAMPLES, MOST_EXAMPLES)
    without = opened(greedy, Known({"a": 3}), NAMES)  # It holds nothing to score on.
    assert isinstance(without, Reply)
    assert without.score is not None
    assert without.score.examples == 0


def test_weights_count_up_to_the_tokens_that_are_known_of_the_client() -> None:
    """Else one that says a million has the pooled mean to itself."""
    greedy = replace(SCORED, score=replace(SCORE, weights={"loss": 1e30}))
    for known, most in ((Known({"a": 3}, {"a": 2}, {"a": 40}), 40), (Known(), MOST_TOKENS)):
        found = opened(greedy, known, NAMES)
        assert isinstance(found, Scored)
        assert found.score.weights == {"loss": most}


def test_what_cannot_be_printed_is_no_longer_than_the_rest() -> None:
    found = opened(Failure("1-0", "a", "\U000e0001" * 10_000), KNOWN, NAMES)
    assert isinstance(found, Failure)
    assert len(found.reason) == 2000
    assert found.reason.endswith("…")


def test_a_perplexity_without_end_is_no_error() -> None:
    found = summary(
        [ClientScore(c, "x", 1, {"perplexity": mean}) for c, mean in (("a", 1.0), ("b", 9e3))]
    )
    spread = found.metrics["perplexity"]
    assert (spread.mean, spread.worst, math.isnan(spread.spread)) == (math.inf, math.inf, True)
