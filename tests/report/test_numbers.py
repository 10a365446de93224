"""The numbers of a page: two rounds and three clients, made by hand, cell for cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flexlora.report.blocks import Block, Figure, Note, Section, Table, Tiles
from flexlora.report.clients import clients
from flexlora.report.failures import failures
from flexlora.report.outcome import outcome
from flexlora.report.partition import partition
from flexlora.report.ranks import ranks
from flexlora.report.rounds import costs, progress
from flexlora.report.runs import Holder, Partition, ReportRun, Scored, State
from flexlora.runs.events import Failed
from flexlora.runs.scored import SingleScore
from small import round_record

B = TypeVar("B", bound=Block)
CLIENTS = {"ann": "poems", "bob": "sums", "cid": "sums"}
BASE = {"ann": 4.0, "bob": 3.0, "cid": 2.0}
FULL = {"ann": 1.0, "bob": 2.5, "cid": 2.25}  # Gains of 3, 0.5 and −0.25: loss is better lower.


def scored(losses: dict[str, float]) -> Scored:
    sums = (losses["bob"] + losses["cid"]) / 2
    return Scored(
        clients=3,
        examples=12,
        mean={"loss": sum(losses.values()) / 3},
        categories={"sums": {"loss": sums}, "poems": {"loss": losses["ann"]}},
        rows=tuple(SingleScore(k, CLIENTS[k], 4, {"loss": x}) for k, x in losses.items()),
        predictions=(),
    )


def made(label: str = "r", arm: str = "", seed: int = 0, better: float = 0.0) -> ReportRun:
    """better: how much lower all losses of its full state are."""
    full = {name: loss - better for name, loss in FULL.items()}
    rounds = (
        round_record(
            1,
            types={"low": 2, "high": 1},
            bytes_down=3_000_000,
            bytes_up=1_000_000,
            train_loss=2.5,
            failures=1,
            seconds={"clients": 6.0, "combine": 1.0},
        ),
        round_record(
            2,
            types={"low": 1},
            bytes_down=4_000_000,
            bytes_up=500_000,
            train_loss=2.0,
            seconds={"clients": 3.0, "combine": 2.0},
        ),
    )
    holders = (
        Holder("ann", "high", 6, {"poems": 6}),
        Holder("bob", "low", 3, {"sums": 2, "poems": 1}),
        Holder("cid", "low", 1, {"sums": 1}),
    )
    return ReportRun(
        label=label,
        arm=arm or label,
        folder=Path(label),
        rule="flexlora",
        seed=seed,
        planned=2,
        base_model=("tiny", "float32"),
        config={},
        environment={},
        data={},
        parent=None,
        origin="",
        clients={"low": 2, "high": 1},
        ranks={"low": "2", "high": "8"},
        higher={},
        rounds=rounds,
        failed=(Failed(1, "cid", "its disk is full"),),
        refused=(),
        rested=(),
        spectra=(),
        states=(
            State("base", "", {"unseen": scored(BASE)}),
            State("full", "full", {"unseen": scored(full)}),
            State("low", "2", {"unseen": scored({k: x + 0.5 for k, x in full.items()})}),
        ),
        scored_round=2,
        partition=Partition("task", "category", holders, (), 0),
    )


RUN = made()


def of(section: Section, kind: type[B], title: str) -> B:
    (found,) = [
        block
        for block in section.blocks
        if isinstance(block, kind)
        and getattr(block, "title", getattr(block, "caption", "")).startswith(title)
    ]
    return found


def cells(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def data(figure: Figure, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in keys) for row in figure.spec["data"]["values"]]


def order(figure: Figure) -> list[str]:
    layers: Sequence[Any] = figure.spec["layer"]
    return list(layers[0]["encoding"]["y"]["sort"])


def test_training_loss_by_round() -> None:
    figure = of(progress([RUN]), Figure, "Training loss")
    assert data(figure, "x", "y", "series") == [(1, 2.5, "r"), (2, 2.0, "r")]
    assert figure.table.columns == ("round", "r")
    assert cells(figure.table) == [["1", "2.500"], ["2", "2.000"]]


def test_bytes_are_added_up_each_way() -> None:
    figure = of(costs([RUN]), Figure, "Megabytes sent")
    down = [(1, 3.0, "down"), (2, 7.0, "down")]
    assert data(figure, "x", "y", "kind") == [*down, (1, 1.0, "up"), (2, 1.5, "up")]
    assert figure.table.columns == ("round", "r, down", "r, up")
    assert cells(figure.table) == [["1", "3.000", "1.000"], ["2", "7.000", "1.500"]]


def test_seconds_by_phase() -> None:
    figure = of(costs([RUN]), Figure, "Seconds by phase")
    assert data(figure, "name", "part", "x") == [("r", "clients", 9.0), ("r", "combine", 3.0)]
    assert figure.table.columns == ("run", "clients", "combine", "all")
    assert cells(figure.table) == [["r", "9.000", "3.000", "12.00"]]


def test_updates_are_counted_by_type() -> None:
    section = ranks([RUN])
    types = of(section, Table, "Client types")
    assert cells(types) == [["r", "low", "2", "2", "3"], ["r", "high", "8", "1", "1"]]
    figure = of(section, Figure, "Updates by client type and round")
    assert figure.table.columns == ("rounds", "low (rank 2)", "high (rank 8)")
    assert cells(figure.table) == [["1", "2", "1"], ["2", "1", "0"]]
    found = {(row["part"], (row["x"] + row["x2"]) / 2): row["y"] for row in values(figure)}
    assert found == {
        ("low (rank 2)", 1.0): 2,
        ("high (rank 8)", 1.0): 1,
        ("low (rank 2)", 2.0): 1,
        ("high (rank 8)", 2.0): 0,
    }


def values(figure: Figure) -> list[dict[str, Any]]:
    return list(figure.spec["data"]["values"])


def test_what_each_rank_gets() -> None:
    two = [made("a-0", "a"), made("a-1", "a", seed=1, better=0.25)]
    figure = of(ranks(two), Figure, "loss at each rank")
    rows = [("full state", "a", 1.9167), ("low (rank 2)", "a", 2.4167)]
    rows += [("full state", "a", 1.6667), ("low (rank 2)", "a", 2.1667)]
    assert data(figure, "name", "series", "x") == rows
    assert [(row[0], row[1]) for row in cells(figure.table)] == [
        ("full state", "a-0"),
        ("low (rank 2)", "a-0"),
        ("full state", "a-1"),
        ("low (rank 2)", "a-1"),
    ]


def test_categories_stand_by_what_they_gained() -> None:
    figure = of(clients([RUN]), Figure, "loss by category")
    assert order(figure) == ["poems", "sums"]
    assert data(figure, "name", "x", "base") == [("sums", 2.375, 2.5), ("poems", 1.0, 4.0)]
    assert cells(figure.table) == [
        ["poems", "r", "4.000", "1.000", "−3.000"],
        ["sums", "r", "2.500", "2.375", "−0.125"],
    ]


def test_clients_that_gained_least_come_first() -> None:
    table = of(clients([RUN]), Table, "r: unseen examples, those that gained least in loss")
    assert cells(table) == [
        ["cid", "sums", "4", "2.250", "+0.250"],
        ["bob", "sums", "4", "2.500", "−0.500"],
        ["ann", "poems", "4", "1.000", "−3.000"],
    ]


def test_changes_of_clients_are_full_minus_base() -> None:
    figure = of(clients([RUN]), Figure, "Change of loss by client")
    bins = [[float(x.replace("−", "-")) for x in row[1:]] for row in cells(figure.table)]
    for change in (-3.0, -0.5, 0.25):
        assert sum(low <= change < high for low, high, _ in bins) == 1
    assert sum(number for *_, number in bins) == 3
    assert "right of zero is worse: 1 of 3 clients" in figure.reading


def test_outcome_of_one_run() -> None:
    section = outcome([RUN])
    (tiles,) = (block for block in section.blocks if isinstance(block, Tiles))
    (tile,) = tiles.tiles
    assert (tile.value, tile.against, tile.good) == ("1.917", "−1.083 against 3.000", True)
    table = of(section, Table, "Scores on unseen examples")
    assert cells(table) == [
        ["base model", "3.000", "–"],
        ["full state", "1.917", "−1.083"],
        ["low, rank 2", "2.417", "−0.583"],
    ]
    whole = of(section, Table, "What was run")
    assert cells(whole) == [["r", "flexlora", "0", "2 of 2", "2", "3", "1", "8.5", "0.2"]]


def test_rounds_of_a_run_that_goes_on_with_another_are_told_apart() -> None:
    rounds = tuple(replace(played, round=number) for number, played in enumerate(RUN.rounds, 4))
    parent = {"kind": "run", "path": "runs/first", "rule": "flexlora", "round": 3}
    section = outcome([replace(RUN, rounds=rounds, planned=5, parent=parent)])
    assert cells(of(section, Table, "What was run"))[0][3] == "5 of 5 (2 of them here)"
    told = next(x.text for x in section.blocks if isinstance(x, Note) and "began" in x.text)
    assert told.startswith("r began from the run runs/first, played by flexlora up to round 3;")
    assert told.endswith("what was sent and how long it took there is not counted here.")


def test_base_models_are_named_with_what_their_figures_need_said() -> None:
    """A known model by what is known of it, one out of a GGUF file as that; of others, no more."""
    others = [("cut.gguf", "bfloat16"), ("made/by-me", "bfloat16-4bit"), ("tiny", "float32")]
    bases = [("smollm2-135m", "bfloat16"), *others]
    section = outcome([replace(made(str(i)), base_model=base) for i, base in enumerate(bases * 2)])
    (told,) = (block.text for block in section.blocks if isinstance(block, Note))
    assert told == (
        "Base models: smollm2-135m in bfloat16 (SmolLM2-135M-Instruct, whose weights come from "
        "4 bits, tuned for instructions already); cut.gguf in bfloat16 (its weights come from a "
        "GGUF file, perhaps of few bits); made/by-me in bfloat16-4bit; tiny in float32 (for trying "
        "things out: it knows a few hundred English words)."
    )


def test_a_change_of_nothing_is_neither_good_nor_bad() -> None:
    """Nor one of less than the digits that are shown."""

    def colour(value: float) -> tuple[str, bool | None]:
        base, full = (replace(scored(BASE), mean={"loss": x}) for x in (3.0, value))
        states = (State("base", "", {"unseen": base}), State("full", "full", {"unseen": full}))
        section = outcome([replace(RUN, states=states)])
        (tiles,) = (block for block in section.blocks if isinstance(block, Tiles))
        return tiles.tiles[0].against, tiles.tiles[0].good

    assert colour(3.0) == ("±0.000 against 3.000", None)
    assert colour(3.0004) == ("±0.000 against 3.000", None)
    assert colour(3.001) == ("+0.001 against 3.000", False)
    assert colour(2.999) == ("−0.001 against 3.000", True)


def test_the_best_of_several_runs_is_the_one_with_the_lower_loss() -> None:
    section = outcome([made("a"), made("b", better=0.5)])
    table = of(section, Table, "Scores on unseen examples")
    assert cells(table) == [
        ["base model", "3.000", "–"],
        ["a", "1.917", "−1.083"],
        ["b", "1.417", "−1.583"],
    ]
    assert [row[1].best for row in table.rows] == [False, False, True]
    figure = of(section, Figure, "loss: every run against the base model")
    assert data(figure, "name", "x", "base") == [("a", 1.9167, 3.0), ("b", 1.4167, 3.0)]


def over_seeds(*runs: ReportRun) -> Table:
    return of(outcome(runs), Table, "Mean ± standard deviation over seeds")


def test_means_over_seeds() -> None:
    runs = [made(f"a-{s}", "a", s, better=0.5 * s) for s in (0, 1)]
    runs += [made(f"b-{s}", "b", s, better=1.0) for s in (0, 1)]
    table = over_seeds(*runs)
    assert table.columns == ("runs that differ in the seed alone", "runs", "loss ↓")
    # 1.9167 and 1.4167: sd = 0.5 / √2.
    assert cells(table) == [["a", "2", "1.667 ± 0.354"], ["b", "2", "0.917 ± 0.000"]]
    assert [row[-1].best for row in table.rows] == [False, True]


def test_a_seed_that_was_played_twice_counts_once() -> None:
    runs = [made("a", "a", 0), made("again", "a", 0, better=0.5), made("a-1", "a", 1, better=0.75)]
    table = over_seeds(*runs)
    assert table.columns[1:] == ("runs", "seeds", "loss ↓")
    # Seed 0: (1.9167 + 1.4167) / 2 = 1.6667; seed 1: 1.1667; sd = 0.5 / √2.
    assert cells(table) == [["a", "3", "2", "1.417 ± 0.354"]]
    assert table.caption.endswith("runs of one seed count as their mean")


def test_an_arm_without_a_score_wins_nothing() -> None:
    none = replace(made("b-0", "b"), states=())
    table = over_seeds(made("a-0", "a"), made("a-1", "a", 1), none)
    assert cells(table) == [["a", "2", "1.917 ± 0.000"], ["b", "0", "–"]]
    assert not any(cell.best for row in table.rows for cell in row)


def test_who_holds_what() -> None:
    section = partition([RUN])
    (words,) = (block.text for block in section.blocks if isinstance(block, Note))
    assert words.startswith("10 examples of 2 labels (category) are dealt to 3 clients, by task;")
    sizes = of(section, Figure, "Examples by client")
    assert cells(sizes.table) == [["ann", "high", "6"], ["bob", "low", "3"], ["cid", "low", "1"]]
    mix = of(section, Figure, "Labels by client")
    assert data(mix, "name", "label", "x", "n") == [
        ("ann", "poems", 1.0, 6),
        ("bob", "poems", 0.33333, 1),
        ("bob", "sums", 0.66667, 2),
        ("cid", "sums", 1.0, 1),
    ]


def test_examples_that_were_dealt_and_left_out_are_told() -> None:
    def notes(**data: Any) -> list[str]:
        section = partition([replace(RUN, data=data)])
        return [block.text for block in section.blocks if isinstance(block, Note)]

    some = notes(training_examples_left_out=1500, unseen_examples_left_out=9)
    said = "Of these, 1,500 that train and 9 unseen are too long (data.max_tokens) and left out."
    assert some[-1] == said
    assert len(notes(training_examples_left_out=0)) == len(some) - 1


def test_failures_one_by_one_and_added_up() -> None:
    section = failures([RUN])
    assert cells(of(section, Table, "Reasons")) == [["r", "train", "its disk is full", "1"]]
    assert cells(of(section, Table, "Failures one")) == [
        ["r", "1", "cid", "train", "its disk is full"]
    ]
    assert data(of(section, Figure, "Failures so far"), "x", "y") == [(1, 1), (2, 1)]


def test_refused_answers_stand_apart() -> None:
    strays = tuple(Failed(n, "ann", f"answers job {n}", "stray") for n in (1, 2, 2))
    section = failures([replace(RUN, failed=(), refused=strays)])
    notes = [block.text for block in section.blocks if isinstance(block, Note)]
    assert notes[0] == "No client failed."
    assert notes[1].startswith("3 answers came late, twice, or of another round")
    assert cells(of(section, Table, "Refused answers")) == [["r", "ann", "3"]]


@pytest.mark.parametrize("several", [False, True])
def test_the_histogram_s_rows_are_runs_in_the_colours_of_their_arms(several: bool) -> None:
    runs = [made("a-0", "a"), made("a-1", "a", 1)] if several else [RUN]
    figure = of(clients(runs), Figure, "Change of loss by client")
    assert figure.table.columns[0] == "run"
    labels = {"a-0", "a-1"} if several else {"r"}
    assert {row[0] for row in cells(figure.table)} == labels
    assert {name for name, _ in data(figure, "name", "series")} == labels
    assert {arm for _, arm in data(figure, "name", "series")} == {"a" if several else "r"}
    floors = {low for (low,) in data(figure, "low")}
    assert len(floors) == len(runs)
    assert ("each run by itself" in figure.reading) == several
