"""What is compared, on which seeds, and how the first sentence tells it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from comparing.made_up import by_task, findings, row, tidy
from flexlora.comparing.section import section
from flexlora.comparing.sentences import primary, standing
from flexlora.comparing.tables import differences, on_clients, owners, scores
from flexlora.report.blocks import Table

LOSSES = {"a": [1.0, 1.2, 1.1, 1.3], "b": [1.5, 1.6, 1.7, 1.4], "c": [1.0, 1.3, 1.0, 1.2]}
FOUR: dict[str, Any] = {"primary": ["a", "b"], "seeds": [0, 1, 2, 3], "level": 0.2}


def of(values: dict[str, list[float]], **changes: Any) -> list[Any]:
    return [row(arm, seed, x, **changes) for arm, of in values.items() for seed, x in enumerate(of)]


def columns(table: Table) -> dict[str, dict[str, str]]:
    """Arm → column → text."""
    return {
        line[0].text: dict(zip(table.columns, (cell.text for cell in line), strict=True))
        for line in table.rows
    }


def test_the_primary_comparison_in_one_sentence() -> None:
    assert primary(findings(of(LOSSES), **FOUR)) == (
        "a against b, loss on the clients' own test examples, full state: 1.150 against 1.550 "
        "(lower is better), difference −0.400 (95 % interval −0.744 to −0.056), p = 0.125 (exact "
        "paired permutation test, all 16 sign flips), n = 4 seeds; within the level of 0.2 that "
        "was fixed before the runs."
    )


def test_bits_are_shown_in_their_own_direction_and_digits() -> None:
    bits = {"a": [100.0, 120.0, 110.0, 130.0], "b": [90.0, 125.0, 100.0, 110.0]}
    told = primary(findings(of(bits, metric="bits"), **FOUR, metric="bits"))
    assert "bits on the clients' own test examples, full state: 115 against 106" in told
    assert "(higher is better), difference +9 (95 % interval " in told
    assert told.endswith("; not within the level of 0.2 that was fixed before the runs.")


def test_while_the_rest_runs_pairs_are_of_common_seeds() -> None:
    rows = [row("a", 0, 1.0), row("a", 1, 1.2), row("b", 1, 1.5), row("b", 2, 9.0)]
    made = findings(rows, **FOUR)
    told = primary(made)
    assert ": 1.200 against 1.500 (lower is better), difference −0.300 (of one seed: no" in told
    assert told.endswith("n = 1 seed of 4, so the test is not to be read yet.")
    assert standing(made) == [
        "Not finished: of 4 seeds, some arms have fewer: a (2), b (2). Each mean is over the seeds "
        "that its arm has, each difference over those that both arms have, and no p is to be read "
        "yet."
    ]


def test_an_arm_that_has_nothing_yet_is_there() -> None:
    made = findings([row("a", 0, 1.0)], arms=["a", "b", "c"], **FOUR)
    assert primary(made).endswith("full state: not known yet, for no seed has a value of both.")
    assert columns(next(scores(made, "own")))["b"] == {
        "arm": "b",
        "learning rate": "–",
        "seeds": "0",
        "full state": "–",
        "a less the arm": "–",
    }
    assert findings([], arms=["a", "b"], **FOUR).pairs("own", "full")["b"].difference is None


def test_a_run_that_broke_down_is_named_and_is_in_no_mean() -> None:
    made = findings(of({**LOSSES, "b": [1.5, math.nan, 1.7, 1.4]}), **FOUR)
    assert made.values("own", "full")["b"] == {0: 1.5, 2: 1.7, 3: 1.4}
    assert "n = 3 seeds of 4" in primary(made)
    assert standing(made)[-1].endswith("full state, and so in no mean: b, seed 1.")


def test_all_but_the_primary_are_corrected_together() -> None:
    made = findings(of({**LOSSES, "d": [3.0, 3.0, 3.0, 3.0]}), **FOUR).pairs("own", "full")
    assert {arm: pair.p.value for arm, pair in made.items() if pair.p} == {
        "b": 2 / 16,
        "c": made["c"].p.value if made["c"].p else None,
        "d": 2 / 16,
    }
    assert made["b"].corrected is None
    assert made["d"].corrected == 4 / 16  # Of two others.
    table = columns(next(scores(findings(of(LOSSES), **FOUR), "own")))
    assert table["b"]["p"] == "0.125, primary"
    assert table["a"]["p"] == "–"


def test_only_what_the_config_fixed_is_tested() -> None:
    made = findings([*of(LOSSES), *of(LOSSES, part="unseen")], **FOUR)
    assert all(pair.p is None for pair in made.pairs("unseen", "full").values())
    assert "p" not in next(scores(made, "unseen")).columns
    free = findings(of(LOSSES))
    assert "nothing is tested; differences are a less the other arm" in primary(free)
    assert free.pairs("own", "full")["b"].p is None


def test_without_a_primary_one_all_are_held_against_the_first_that_is_no_control() -> None:
    made = findings(of(LOSSES), controls=["a"])
    assert made.reference == "b"
    assert made.pairs("own", "full").keys() == {"a", "c"}
    assert findings(of(LOSSES), controls=["a"], **FOUR).reference == "a"
    assert findings(of(LOSSES), controls=list(LOSSES)).reference == "a"


TASKS = {"a": {"x": [1.0, 2.0], "y": [4.0, 5.0]}, "b": {"x": [1.5, 2.5], "y": [6.0, 8.0]}}


def by_tasks(**changes: dict[str, list[float]]) -> list[Any]:
    return [r for arm, of in {**TASKS, **changes}.items() for r in by_task(arm, of)]


def test_a_difference_has_an_interval_over_tasks_beside_the_one_over_seeds() -> None:
    """a − b: on x −0.5 in both seeds, on y −2 and −3; by seed −1.25 and −1.75."""
    asked: dict[str, Any] = {"part": "unseen", "primary": ["a", "b"], "level": 0.5}
    made = findings(by_tasks(), **asked)
    table = next(scores(made, "unseen"))
    assert columns(table)["b"]["a less the arm"] == "−1.500 ± 3.177"  # t(1) · 0.25.
    assert columns(table)["b"]["the same, clustered by task"] == "−1.500 ± 12.706"  # t(1) · 1.
    assert columns(table)["a"]["the same, clustered by task"] == "–"
    assert "; clustered: the interval over tasks, at these seeds" in table.caption
    assert "(95 % interval −4.677 to +1.677; clustered by task −14.206 to +11.206)" in primary(made)


def test_every_arm_is_held_against_every_other() -> None:
    """c − b and b − a, on x and y in two seeds, by hand; of two arms the first table says all."""
    made = findings(by_tasks(c={"x": [1.0, 2.5], "y": [6.5, 8.0]}), part="unseen")
    (table,) = differences(made, "unseen")
    assert table.caption.endswith(
        "the row's arm less the column's; in brackets half of the interval clustered by task"
    )
    assert columns(table) == {
        "b": {"less": "b", "a": "+1.500 ± 3.177 (± 12.706)", "b": "–"},
        "c": {"less": "c", "a": "+1.500 ± 3.177 (± 15.883)", "b": "±0.000 ± 0.000 (± 3.177)"},
    }
    assert list(differences(findings(by_tasks(), part="unseen"), "unseen")) == []
    assert list(differences(made, "own")) == []


@pytest.mark.parametrize(
    "other",
    [
        {"x": [1.5, 2.5]},  # Fewer tasks.
        {"x": [1.5, 2.5], "z": [6.0, 8.0]},  # Another one.
        {"x": [1.5, 2.5], "y": [6.0, math.nan]},  # One seed of two, with a finite mean.
    ],
)
def test_arms_that_were_scored_on_other_tasks_have_no_clustered_interval(
    other: dict[str, list[float]],
) -> None:
    rows = [
        replace(r, value=7.0) if math.isnan(r.value) and not r.client else r
        for r in by_tasks(b=other)
    ]
    pair = findings(rows, part="unseen").pairs("unseen", "full")["b"]
    assert pair.difference is not None
    assert pair.difference.n == 2
    assert pair.clustered is None


def test_a_mean_that_is_not_that_of_its_tasks_has_none_either() -> None:
    """As the loss by token, where tasks weigh by their tokens; perplexity; a sum."""
    rows = [r if r.client else replace(r, value=2 * r.value) for r in by_tasks()]
    made = findings(rows, part="unseen")
    assert made.pairs("unseen", "full")["b"].clustered is None
    assert list(next(scores(made, "unseen")).columns)[-1] == "a less the arm"


def test_each_client_type_at_its_own_rank_by_name() -> None:
    """`one` has one rank for all, whose clients are all handed the full state; `b` has types of
    its own; the base model is the same at any rank."""
    rows = [
        row("a", 0, 1.0),
        row("a", 0, 1.1, state="low", ranks="2"),
        row("a", 0, 1.0, state="high", ranks="8"),
        row("b", 0, 2.0),
        row("b", 0, 2.2, state="tiny", ranks="1"),
        row("b", 0, 2.1, state="low", ranks="4"),
        row("one", 0, 3.0),
        row("base", 0, 4.0, state="base", ranks=""),
        row("silent", 0, 5.0),
    ]
    scored = tidy(rows, types_scored=frozenset({"a", "b", "one"}))
    made = findings(rows, of=scored)
    table = columns(next(scores(made, "own")))
    shown = ["full state", "low", "high (rank 8)", "tiny (rank 1)"]
    assert [[table[arm][title] for title in shown] for arm in made.arms] == [
        ["1.000", "1.100", "1.000", "–"],
        ["2.000", "2.100", "–", "2.200"],
        ["3.000", "3.000", "3.000", "3.000"],
        ["4.000", "4.000", "4.000", "4.000"],
        ["5.000", "–", "–", "–"],
    ]


def test_by_owner_each_type_is_scored_on_its_own_examples() -> None:
    rows = [
        row("a", 0, 1.0),
        row("a", 0, 1.1, state="low", ranks="2"),
        row("a", 0, 1.3, state="low", ranks="2", clients="low"),
        row("a", 0, 1.9, state="low", ranks="2", clients="high"),
        row("a", 0, 0.9, state="high", ranks="8", clients="high"),
        row("alone", 0, 3.0, ranks="own"),
        row("alone", 0, 3.1, ranks="own", clients="low"),
        row("alone", 0, 2.9, ranks="own", clients="high"),
    ]
    table = columns(next(owners(findings(rows))))
    assert table["a"] == {"arm": "a", "low (rank 2)": "1.300", "high (rank 8)": "0.900"}
    assert table["alone"] == {"arm": "alone", "low (rank 2)": "3.100", "high (rank 8)": "2.900"}
    assert list(owners(findings(of(LOSSES)))) == []
    table = columns(next(scores(findings(rows), "own")))  # What each keeps is handed to no other.
    assert list(table["alone"].values())[3:6] == ["3.000", "–", "–"]


def validated(values: dict[str, list[float]], state: str) -> list[Any]:
    return of(values, part="validation", state=state)


def test_what_clients_score_at_their_own_ranks_stands_on_its_own() -> None:
    """Of b and c every client scores more than the server; the base model is asked of none."""
    rows = [
        *of({"base": [4.0] * 2}, state="base"),
        *validated({"a": [1.0, 2.0], "b": [1.0, 1.0], "c": [1.5, 1.5]}, "full"),
        *validated({"a": [1.0, 2.0], "b": [2.0, 4.0], "c": [2.5, 3.5]}, "own rank"),
        *validated({"a": [0.5, 0.5], "b": [0.5, 0.5], "c": [0.5, 0.5]}, "own rank, tuned"),
    ]
    made = findings(rows, ["a", "b", "c", "base"], part="validation")
    own, gaps = on_clients(made)
    assert columns(own)["b"] == {
        "arm": "b",
        "learning rate": "0.01",
        "seeds": "2",
        "own rank": "3.000 ± 12.706",
        "own rank, tuned": "0.500 ± 0.000",
        "a less the arm": "−1.500 ± 6.353",
    }
    assert list(columns(own)) == ["a", "b", "c"]
    assert columns(gaps) == {
        "b": {"less": "b", "a": "+1.500 ± 6.353", "b": "–"},
        "c": {"less": "c", "a": "+1.500 ± 0.000", "b": "±0.000 ± 6.353"},
    }
    assert made.values("validation", "full")["b"] == {0: 1.0, 1: 1.0}
    assert columns(next(scores(made, "validation")))["b"]["a less the arm"] == "+0.500 ± 6.353"
    assert list(on_clients(findings(of(LOSSES)))) == []


def test_where_the_server_validates_nothing_the_clients_scores_are_the_validation() -> None:
    made = findings(validated({"a": [1.0, 2.0]}, "own rank"), part="validation")
    assert made.values("validation", "full") == {"a": {0: 1.0, 1: 2.0}}


def test_what_is_compared_may_be_what_a_type_is_handed() -> None:
    rows = [*of(LOSSES), *of({"a": [2.0] * 4, "b": [3.0] * 4}, state="low", ranks="2")]
    made = findings(rows, **FOUR, state="low")
    assert "what clients of type low are handed: 2.000 against 3.000" in primary(made)
    (table,) = scores(made, "own")
    assert "seeds and differences are of low" in table.caption
    assert columns(table)["b"]["a less the arm"] == "−1.000 ± 0.000"


def test_a_metric_in_a_file_goes_by_the_name_that_the_runs_noted() -> None:
    rows = [row("a", 0, 1.0, metric="words"), row("b", 0, 3.0, metric="words")]
    noted = tidy(rows, names={"my/metrics.py:Words": "words"}, higher={"words": False})
    made = findings(rows, metric="my/metrics.py:Words", of=noted)
    assert made.measure.heading == "words ↓"
    assert made.values("own", "full") == {"a": {0: 1.0}, "b": {0: 3.0}}


def test_the_compared_part_stands_by_every_other_metric_and_none_of_that_is_tested() -> None:
    bits = of({"a": [9.0] * 4, "b": [7.0] * 4}, metric="bits")
    made = findings([*of(LOSSES), *bits, *of(LOSSES, part="unseen", metric="words")], **FOUR)
    tables = [x for x in section(made).blocks if isinstance(x, Table) and "seeds" in x.columns]
    assert [table.caption.split(":")[0] for table in tables] == [
        "loss ↓ on the clients' own test examples",
        "bits ↑ on the clients' own test examples",
    ]
    assert columns(tables[1])["b"]["a less the arm"] == "+2 ± 0"
    assert "p" in tables[0].columns
    assert "p" not in tables[1].columns


@pytest.mark.parametrize("part", ["own", "unseen", "validation"])
def test_the_compared_part_is_shown_first(part: str) -> None:
    assert findings(of(LOSSES), part=part).parts[0] == part
