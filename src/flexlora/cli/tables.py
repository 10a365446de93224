"""The tables that commands end with."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flexlora.evaluation import MeanScore, Scores
from flexlora.federation.results import Result, Row
from flexlora.federation.setup import Setup


def say(text: str) -> None:
    """One line on stdout, never wrapped: paths stay whole."""
    print(text)


def megabytes(count: int) -> str:
    """Bytes as decimal megabytes with one decimal."""
    return f"{count / 1e6:,.1f}"


def describe(setup: Setup) -> None:
    """Who takes part: clients by type with their ranks, data, what was cut or missing."""
    data = setup.describe()
    table = Table(title="clients", title_justify="left")
    for column in ("type", "clients", "rank", "training examples"):
        table.add_column(column, justify="left" if column == "type" else "right")
    for name in setup.ranks:
        members = [client for client, kind in setup.types.items() if kind == name]
        examples = sum(len(setup.train[client]) for client in members)
        table.add_row(escape(name), str(len(members)), str(setup.mix.types[name]), f"{examples:,}")
    Console().print(table)
    for who, what in (("clients", "training_examples"), ("unseen_clients", "unseen_examples")):
        say(
            f"{data[who]:,} {who.replace('_', ' ')} ({data[f'{who}_left_out']:,} left out), "
            f"{data[what]:,} {what.replace('_', ' ')} ({data[f'{what}_truncated']:,} cut to fit, "
            f"{data[f'{what}_left_out']:,} left out as too long)"
        )
    say(f"{len(setup.model.layers)} layers of {setup.config.model.name} adapted")
    for note in data["notes"]:
        say(f"note: {note}")


def results_table(results: Sequence[Result]) -> None:
    """Scores on unseen clients and on the clients' own test parts; the base model first."""
    if not results[0].rows:
        say("unseen clients were not scored (evaluation.unseen is false)")
        return
    table = Table(title="unseen clients, and the clients' own test examples", title_justify="left")
    table.add_column("rule", no_wrap=True)
    table.add_column("adapter")
    for column in ("ROUGE-L ↑", "exact ↑", "loss ↓", "own ROUGE-L ↑", "own loss ↓"):
        table.add_column(column, justify="right")
    for column in ("MB up", "MB down", "s, rounds"):
        table.add_column(column, justify="right")
    table.add_row("base model", "none", *_scores(results[0].row("base")), "", "", "")
    for result in results:
        table.add_section()
        for row in result.rows[1:]:
            first = row.state == "full"
            cost = (
                megabytes(result.bytes_up),
                megabytes(result.bytes_down),
                f"{result.seconds:.0f}",
            )
            table.add_row(
                result.rule if first else "",
                "full state" if first else escape(f"{row.state} ({row.ranks})"),
                *_scores(row),
                *(cost if first else ("", "", "")),
            )
    Console(width=None if Console().is_terminal else 132).print(table)


def scores_table(scores: Scores) -> None:
    """Scores by category, under each its clients, then over all unseen clients."""
    table = Table(title="unseen clients by category", title_justify="left")
    table.add_column("category and client", no_wrap=True)
    for column in ("clients", "examples", "ROUGE-L ↑", "exact % ↑", "loss ↓"):
        table.add_column(column, justify="right")
    for name, mean in scores.by_category().items():
        table.add_row(escape(name), *_mean(mean), style="bold")
        for row in scores.clients:
            if row.category == name:
                table.add_row(escape(f"  {row.client}"), *_mean(Scores((row,)).mean()))
        table.add_section()
    table.add_row("all", *_mean(scores.mean()), style="bold")
    Console(width=None if Console().is_terminal else 132).print(table)
    if scores.left_out:
        say(f"{scores.left_out:,} examples were left out as too long")


def _scores(row: Row) -> tuple[str, ...]:
    own = ("–", "", "–") if row.own is None else _mean(row.own.mean())[2:]
    return (*_mean(row.unseen.mean())[2:], own[0], own[2])


def _mean(mean: MeanScore) -> tuple[str, ...]:
    return (
        f"{mean.clients:,}",
        f"{mean.examples:,}",
        "–" if mean.rouge_l is None else f"{mean.rouge_l:.1f}",
        "–" if mean.exact_match is None else f"{mean.exact_match:.1f}",
        f"{mean.loss:.3f}",
    )
