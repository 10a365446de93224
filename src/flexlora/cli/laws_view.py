"""What `flexlora laws` says: one aggregator law by law, or all rules in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flexlora.cli.console import say, screen
from flexlora.cli.program import program
from flexlora.cli.sheets import Column, Sheet
from flexlora.laws import LAWS, TOLERANCE, Verdict

_MARKS = {"holds": "✓", "fails": "✗", "by design": "by design"}
_LEGEND = (
    "✓ holds   ✗ fails   by design: not asked, for what the rule says of its method",
    f"A law holds where the relative error is at most {TOLERANCE:g} in every case.",
)


def show_one(name: str, verdicts: Sequence[Verdict]) -> None:
    """Every law with its sentence and figure; below it where it fails, or why it is not asked."""
    Sheet(
        title=f"laws of {name}",
        names=Column("law", [f"{x.law}: {LAWS[x.law].says}" for x in verdicts], left=True),
        columns=[
            Column("", [_MARKS[x.standing] for x in verdicts]),
            Column("relative error", [_error(x) for x in verdicts]),
        ],
    ).print(screen(wide=True))
    for x in verdicts:
        if x.standing == "by design":
            say(f"{x.law} is not asked, by its own design: {x.excuse}")
    for x in verdicts:
        if x.standing == "fails":
            say()
            say(f"{x.law} fails: {LAWS[x.law].says}")
            for line in x.counterexample:
                say(f"  {line}")
    say()
    _legend()


def show_table(found: Mapping[str, Sequence[Verdict]]) -> None:
    """Rules × laws."""
    Sheet(
        title="rules and laws",
        names=Column("rule", list(found), left=True),
        columns=[
            Column(name, [_MARKS[verdicts[place].standing] for verdicts in found.values()])
            for place, name in enumerate(LAWS)
        ],
    ).print(screen(wide=True))
    for law in LAWS.values():
        say(f"{law.name}: {law.says}")
    say()
    _legend()
    for name, verdicts in found.items():
        for x in verdicts:
            if x.standing == "fails":
                say(f"{name} fails {x.law} by {_error(x)}: {program()} laws {name}")


def laws_json(found: Mapping[str, Sequence[Verdict]]) -> dict[str, Any]:
    """The same for machines; the error of a law of which the aggregator raised is null."""
    return {
        "tolerance": TOLERANCE,
        "laws": {name: law.says for name, law in LAWS.items()},
        "rules": {
            name: {
                x.law: {
                    "standing": x.standing,
                    "error": x.error,
                    "excuse": x.excuse or None,
                    "counterexample": list(x.counterexample),
                }
                for x in verdicts
            }
            for name, verdicts in found.items()
        },
    }


def _legend() -> None:
    for line in _LEGEND:
        say(line)


def _error(verdict: Verdict) -> str:
    """A dash where none was found: the aggregator raised, or the law says nothing of it."""
    moot = verdict.standing == "by design" and not verdict.counterexample
    return "–" if moot or not math.isfinite(verdict.error) else f"{verdict.error:.2g}"
