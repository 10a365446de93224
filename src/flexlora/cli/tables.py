"""The tables that commands end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexlora.adapters import ranks_in_words
from flexlora.cli.capacity_view import capacity_table
from flexlora.cli.console import say, screen
from flexlora.cli.device_view import say_devices
from flexlora.cli.partition_view import forecast_table
from flexlora.cli.sheets import Column, Sheet
from flexlora.evaluation import MeanScore, Scores, get_metric
from flexlora.federation.preview import Forecast
from flexlora.federation.setup import Setup
from flexlora.models.places import about
from flexlora.rules import Rule


def describe(setup: Setup, rule: Rule | None = None, *, forecast: Forecast | None = None) -> None:
    """Who takes part: clients by type with their ranks, data, what was cut or missing.

    rule: show the ranks that clients train at under it, else those that they afford. forecast: show
    also what it knows of sizes and bytes.
    """
    data = setup.describe()
    if forecast is None:
        _types_table(setup, rule)
    else:
        forecast_table(forecast)
        capacity_table(forecast)
    say_devices({} if setup.fleet is None else setup.fleet.describe())
    known = setup.census.known
    whose = f", {known:,} of them of clients that train" if known else ""
    for who, of, what in (("clients", "", "training"), ("unseen_groups", whose, "unseen")):
        cut, too_long = (data[f"{what}_examples_{end}"] for end in ("truncated", "left_out"))
        say(
            f"{data[who]:,} {who.replace('_', ' ')} ({data[f'{who}_left_out']:,} left out){of}, "
            f"{data[f'{what}_examples']:,} {what} examples ({cut:,} cut to fit, {too_long:,} left "
            "out as too long)"
        )
    name = setup.config.model.name
    what = f" ({words})" if (words := about(name)) else ""
    say(f"{len(setup.model.layers)} layers of {name} adapted{what}")
    for note in data["notes"]:
        say(f"note: {note}")


def _types_table(setup: Setup, rule: Rule | None) -> None:
    roster, train = setup.roster, setup.examples.train
    afforded = {name: ranks_in_words(ranks) for name, ranks in roster.ranks.items()}
    words = afforded if rule is None else setup.trained_ranks(rule)
    counts = roster.counts()
    examples = [
        sum(len(train[client]) for client, kind in roster.types.items() if kind == name)
        for name in counts
    ]
    Sheet(
        title="clients",
        names=Column("type", list(counts), left=True),
        columns=[
            Column("clients", [f"{count:,}" for count in counts.values()]),
            Column("rank", [words[name] for name in counts]),
            Column("training examples", [f"{count:,}" for count in examples]),
        ],
    ).print(screen())


def origin(parent: Mapping[str, Any]) -> str:
    """What a run began from, in words, out of its parent.json."""
    if parent["kind"] == "adapter":
        return f"adapter {parent['path']}"
    return f"run {parent['path']} ({parent['rule']}) after round {parent['round']}"


def scores_table(scores: Scores) -> None:
    """Scores by category, under each its groups (tasks, clients or categories), then over all."""
    total = scores.mean()
    names: list[str] = []
    means: list[MeanScore] = []
    after: list[int] = []
    bold: list[int] = []
    for name, rows in scores.rows_by_category().items():
        bold.append(len(names))
        names += [name, *(f"  {row.client}" for row in rows)]
        means += [Scores(tuple(rows)).mean(), *(Scores((row,)).mean() for row in rows)]
        after.append(len(names) - 1)
    bold.append(len(names))
    columns = [
        Column("groups", [f"{mean.clients:,}" for mean in (*means, total)]),
        Column("examples", [f"{mean.examples:,}" for mean in (*means, total)]),
    ]
    for metric in map(get_metric, total.values):
        cells = [f"{mean[metric.name]:.{metric.digits}f}" for mean in (*means, total)]
        columns.append(Column(metric.heading, cells))
    Sheet(
        title="scores by category",
        names=Column("category and group", [*names, "all"], left=True),
        columns=columns,
        ends=after,
        bold=bold,
    ).print(screen(wide=True))
    for note in scores.notes:
        say(f"note: {note}")
    if scores.left_out:
        say(f"{scores.left_out:,} examples were left out as too long")
