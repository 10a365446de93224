"""Equal rounds, bytes and tokens, and the cost of a target, worked by hand."""

from __future__ import annotations

import math

import pytest

from comparing.made_up import findings, rounds, row, tidy
from flexlora.comparing.budgets import views
from flexlora.comparing.figures import figures
from flexlora.comparing.views import Cost, Curve, Point, budget, costs, curves, timed, under
from flexlora.report.blocks import Table

# `dear` pays thrice for a round what `cheap` pays; `cheap` is scored every second round.
ROWS = [
    *rounds("dear", 0, {1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0}, bytes_up=300, bytes_down=600, tokens=50),
    *rounds("cheap", 0, {2: 4.5, 4: 3.5, 6: 2.5}),
    *rounds("cheap", 1, {2: 4.7, 4: 3.7, 6: 2.4}),
]
FEDERATED = frozenset({"dear", "cheap"})


def test_under_a_budget_the_last_scored_round_that_it_pays_for_counts() -> None:
    found = curves(tidy(ROWS), "loss")
    assert budget(found, "rounds", FEDERATED) == 4
    assert under(found, "rounds", 4) == {"dear": {0: 2.0}, "cheap": {0: 3.5, 1: 3.7}}
    assert budget(found, "bytes", FEDERATED) == 1800
    assert under(found, "bytes", 1800) == {"dear": {0: 4.0}, "cheap": {0: 2.5, 1: 2.4}}
    assert under(found, "bytes", 1799) == {"dear": {0: 5.0}, "cheap": {0: 3.5, 1: 3.7}}
    assert budget(found, "tokens", FEDERATED) == 180
    assert under(found, "tokens", 180) == {"dear": {0: 3.0}, "cheap": {0: 2.5, 1: 2.4}}


def test_a_budget_that_pays_no_scored_round_gives_nothing() -> None:
    found = curves(tidy(ROWS), "loss")
    assert under(found, "bytes", 599) == {"dear": {}, "cheap": {}}


def test_controls_stand_under_the_budgets_and_set_none() -> None:
    """`lowest` is a control; `alone` needs no network, so that bytes say nothing of it."""
    alone = rounds("alone", 0, {2: 1.0}, bytes_up=0, bytes_down=0)
    lowest = rounds("lowest", 0, {1: 9.0, 2: 8.0}, bytes_up=1, bytes_down=2)
    rows = [*ROWS, *rounds("dear", 1, {4: 2.2}), *alone, *lowest]
    of = tidy(rows, federated=FEDERATED | {"lowest"})
    made = findings(rows, controls=["alone", "lowest"], of=of, seeds=[0, 1])
    values, differences = (block for block in views(made) if isinstance(block, Table))
    assert values.columns == ("arm", "seeds", "at 4 rounds", "at 0.0012 MB", "at 120 tokens")
    assert [[cell.text for cell in line] for line in values.rows] == [
        ["dear", "2", "2.100 ± 1.271", "3.600 ± 17.789", "3.100 ± 11.436"],
        ["cheap", "2", "3.600 ± 1.271", "3.600 ± 1.271", "3.600 ± 1.271"],
        ["alone", "1", "1.000", "–", "1.000"],
        ["lowest", "1", "8.000", "8.000", "8.000"],
    ]
    assert [[cell.text for cell in line] for line in differences.rows][:2] == [
        ["cheap", "−1.500 ± 0.000", "±0.000 ± 19.059", "−0.500 ± 12.706"],
        ["alone", "+1.000", "–", "+3.000"],
    ]


def test_where_clients_have_devices_simulated_hours_are_a_budget_too() -> None:
    """An arm without any stands under none; a target is told in hours as well."""
    slow = rounds("slow", 0, {1: 5.0, 2: 2.0}, simulated=7200)
    quick = rounds("quick", 0, {1: 4.0, 4: 3.0}, simulated=1800)
    pooled = rounds("pooled", 0, {1: 1.0})
    rows = [*slow, *quick, *pooled]
    found = curves(tidy(rows), "loss")
    assert timed(found) == {"slow", "quick"}
    assert budget(found, "simulated", timed(found)) == 7200
    assert under(found, "simulated", 7200)["slow"] == {0: 5.0}
    made = findings(rows, controls=["pooled"], seeds=[0], target=4.5)
    values, _, target = (block for block in views(made) if isinstance(block, Table))
    assert values.columns[-1] == "at 2 simulated hours"
    assert [line[-1].text for line in values.rows] == ["5.000", "3.000", "–"]
    assert target.columns[-1] == "simulated hours"
    assert [line[-1].text for line in target.rows] == ["4.000", "0.5000", "–"]
    assert [x.title for x in figures(made)][-1] == "loss by simulated hours"
    assert "simulated" not in "".join(values.columns[:-1])


def test_under_budgets_all_p_of_the_table_are_corrected_together() -> None:
    rows = [row for seed in range(4) for row in rounds("a", seed, {1: 1.0 + seed})]
    rows += [row for seed in range(4) for row in rounds("b", seed, {1: 2.0 + seed})]
    made = findings(rows, primary=["a", "b"], seeds=[0, 1, 2, 3], level=0.2)
    *_, differences = views(made)
    assert isinstance(differences, Table)
    wanted = "−1.000 ± 0.000 (p = 0.375)"  # Thrice 2/16.
    assert [cell.text for cell in differences.rows[0]] == ["b", wanted, wanted, wanted]


def test_rounds_that_were_played_but_not_scored_cost_too() -> None:
    played = row("a", 0, 1.5, round=5, final=False, part="training", metric="train_loss")
    found = curves(tidy([*rounds("a", 0, {2: 1.0}), played]), "loss")
    assert found["a"][0] == Curve((Point(Cost(2, 600, 60), 1.0),), Cost(5, 900, 90))


def test_what_the_clients_scored_counts_where_the_server_scored_nothing() -> None:
    own = rounds("a", 0, {1: 1.0, 2: 0.5})
    at_clients = [
        row("b", 0, 7.0, round=1, final=False, part="validation", state="own rank"),
        row("a", 0, 9.0, round=1, final=False, part="validation", state="own rank"),
    ]
    found = curves(tidy([*own, *at_clients]), "loss")
    assert [point.value for point in found["a"][0].points] == [1.0, 0.5]
    assert [point.value for point in found["b"][0].points] == [7.0]


def test_scores_that_are_no_numbers_and_other_metrics_are_no_points() -> None:
    rows = rounds("a", 0, {1: 3.0, 2: math.nan, 3: 2.0})
    found = curves(tidy(rows), "loss")
    assert [point.cost.rounds for point in found["a"][0].points] == [1, 3]
    assert curves(tidy(rows), "rouge_l") == {}
    assert budget({}, "rounds", FEDERATED) is None


@pytest.mark.parametrize(
    ("target", "higher", "wanted"),
    [
        (3.6, False, {"dear": [3], "cheap": [4, 6]}),
        (2.4, False, {"dear": [4], "cheap": [6]}),
        (1.0, False, {"dear": [], "cheap": []}),
        (4.6, True, {"dear": [1], "cheap": [2]}),
    ],
)
def test_the_cost_of_a_target_in_the_metric_s_direction(
    target: float, higher: bool, wanted: dict[str, list[int]]
) -> None:
    found = costs(curves(tidy(ROWS), "loss"), target, higher_is_better=higher)
    assert {arm: [cost.rounds for cost in spent] for arm, (spent, _) in found.items()} == wanted
    assert {arm: of for arm, (_, of) in found.items()} == {"dear": 1, "cheap": 2}
    for spent, _ in found.values():
        for cost in spent:
            assert cost.tokens in (30 * cost.rounds, 50 * cost.rounds)
