"""What the demo ends with: the share of the facts that is remembered, by who had to teach them."""

from __future__ import annotations

from collections.abc import Sequence

from flexlora.cli.console import say, screen
from flexlora.cli.sheets import Column, Sheet
from flexlora.evaluation.metrics import chance_bits
from flexlora.federation import Setup
from flexlora.runs.results import FULL, Result

_BAR = 8  # Characters of all that there is to remember.
_EIGHTHS = " ▏▎▍▌▋▊▉"


def remembered(setup: Setup, arms: Sequence[str], results: Sequence[Result]) -> None:
    """One line for each run: bits of the facts of weak owners, strong owners and all, as shares.

    The first line is the base model, which has never heard of any.
    """
    taught: dict[str, float] = {}
    for client, part in setup.examples.train.items():
        kind = setup.roster.types[client]
        taught[kind] = taught.get(kind, 0.0) + sum(chance_bits(x.references[0]) for x in part)
    names, shares = ["the model before"], [results[0].rows[0].own_by_type()]
    names += arms
    shares += [result.row(FULL).own_by_type() for result in results]
    columns = [
        Column(
            f"of {kind} owners",
            [_share(found[kind]["bits"], whole) for found in shares],
            left=True,
        )
        for kind, whole in sorted(taught.items(), reverse=True)
    ]
    whole = sum(taught.values())
    totals = [sum(means["bits"] for means in found.values()) for found in shares]
    columns.append(Column("of all", [_share(total, whole) for total in totals], left=True))
    say()
    Sheet(
        title="facts remembered, by who owns them",
        names=Column("", names, left=True),
        columns=columns,
        ends=[0],
    ).print(screen())
    say("(bits of the digits that the shared model has learned, of all bits that there are)")


def _share(bits: float, whole: float) -> str:
    share = min(1.0, bits / whole)
    eighths = round(share * _BAR * 8)
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8]
    return f"{share:4.0%} {bar}".rstrip()
