"""The tables that commands end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from flexlora.cli.console import say, screen
from flexlora.cli.partition_view import forecast_table
from flexlora.evaluation import MeanScore, Scores, get_metric
from flexlora.federation.preview import Forecast
from flexlora.federation.setup import Setup
from flexlora.formats.words import megabytes
from flexlora.runs.results import BASE, FULL, STATE_WORDS, Result, Row


def describe(setup: Setup, forecast: Forecast | None = None) -> None:
    """Who takes part: clients by type with their ranks, data, what was cut or missing.

    forecast: show also what it knows of sizes and bytes.
    """
    data = setup.describe()
    if forecast is None:
        _types_table(setup)
    else:
        forecast_table(forecast)
    for who, what in (("clients", "training_examples"), ("unseen_clients", "unseen_examples")):
        say(
            f"{data[who]:,} {who.replace('_', ' ')} ({data[f'{who}_left_out']:,} left out), "
            f"{data[what]:,} {what.replace('_', ' ')} ({data[f'{what}_truncated']:,} cut to fit, "
            f"{data[f'{what}_left_out']:,} left out as too long)"
        )
    say(f"{len(setup.model.layers)} layers of {setup.config.model.name} adapted")
    for note in data["notes"]:
        say(f"note: {note}")


def _types_table(setup: Setup) -> None:
    table = Table(title="clients", title_justify="left")
    for column in ("type", "clients", "rank", "training examples"):
        table.add_column(column, justify="left" if column == "type" else "right")
    roster, train = setup.roster, setup.examples.train
    for name, clients in roster.counts().items():
        examples = sum(len(train[client]) for client, kind in roster.types.items() if kind == name)
        table.add_row(name, str(clients), str(roster.mix.types[name]), f"{examples:,}")
    screen().print(table)


def origin(parent: Mapping[str, Any]) -> str:
    """What a run began from, in words, out of its parent.json."""
    if parent["kind"] == "adapter":
        return f"adapter {parent['path']}"
    return f"run {parent['path']} ({parent['rule']}) after round {parent['round']}"


def results_table(results: Sequence[Result]) -> None:
    """Scores on unseen clients and on the clients' own test parts; the base model first."""
    if not results[0].rows:
        say("unseen clients were not scored (evaluation.unseen is false)")
        return
    table = Table(title="unseen clients, and the clients' own test examples", title_justify="left")
    table.add_column("rule", no_wrap=True)
    table.add_column("adapter")
    shown = list(results[0].row(BASE).unseen.mean().values)
    for part in ("", "own\n"):
        for name in shown:
            table.add_column(Text(f"{part}{get_metric(name).heading}"), justify="right")
    for column in ("MB up", "MB down", "s, rounds"):
        table.add_column(column, justify="right")
    table.add_row(STATE_WORDS[BASE], "none", *_scores(results[0].row(BASE), shown), "", "", "")
    for result in results:
        table.add_section()
        for index, row in enumerate(result.rows[1:]):
            whole = row.state == FULL
            cost = (
                megabytes(result.bytes_up),
                megabytes(result.bytes_down),
                f"{result.seconds:.0f}",
            )
            table.add_row(
                result.rule if index == 0 else "",
                STATE_WORDS.get(row.state, f"{row.state} ({row.ranks})"),
                *_scores(row, shown),
                *(cost if whole else ("", "", "")),
            )
    screen(wide=True).print(table)


def scores_table(scores: Scores) -> None:
    """Scores by category, under each its clients, then over all unseen clients."""
    table = Table(title="unseen clients by category", title_justify="left")
    table.add_column("category and client", no_wrap=True)
    total = scores.mean()
    for column in ("clients", "examples", *(get_metric(name).heading for name in total.values)):
        table.add_column(column, justify="right")
    for name, rows in scores.rows_by_category().items():
        table.add_row(name, *_mean(Scores(tuple(rows)).mean()), style="bold")
        for row in rows:
            table.add_row(f"  {row.client}", *_mean(Scores((row,)).mean()))
        table.add_section()
    table.add_row("all", *_mean(total), style="bold")
    screen(wide=True).print(table)
    for note in scores.notes:
        say(f"note: {note}")
    if scores.left_out:
        say(f"{scores.left_out:,} examples were left out as too long")


def _scores(row: Row, metrics: Sequence[str]) -> tuple[str, ...]:
    """The unseen clients' scores, then those on the own test parts, where there are such."""
    own = ("–",) * len(metrics) if row.own is None else _values(row.own.mean(), metrics)
    return (*_values(row.unseen.mean(), metrics), *own)


def _mean(mean: MeanScore) -> tuple[str, ...]:
    return (f"{mean.clients:,}", f"{mean.examples:,}", *_values(mean, list(mean.values)))


def _values(mean: MeanScore, metrics: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{mean[name]:.{get_metric(name).digits}f}" for name in metrics)
