"""The smallest comparison there is: two arms on two seeds of `small.SMALL`; and who watches it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.comparing.comparison import Comparison, parse_comparison
from flexlora.comparing.failures import Failure, Failures
from flexlora.comparing.folder import begin
from flexlora.comparing.plan import Job
from flexlora.comparing.whole import play
from flexlora.federation.observers import Observer, Silent
from small import SMALL

COMPARE: dict[str, Any] = {"rules": ["flexlora", "fedit"], "seeds": [0, 1]}
SHORT = {"rounds": 2, "clients_per_round": 2, "patience": 0}
QUICK = {"validation_examples": 2, "own_examples": 2, "metrics": ["loss"], "types_at_end": False}


def document(
    arms: Mapping[str, Any] | None = None,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    **compare: Any,
) -> dict[str, Any]:
    """Its tables. arms: [arms]; tables: keys of a run's config on top; compare: of [compare]."""
    base = {**SMALL, "federation": SHORT, "evaluation": QUICK}
    asked = {**COMPARE, **compare}
    if "rates" in asked:
        base["training"] = {k: v for k, v in SMALL["training"].items() if k != "learning_rate"}
    for name, keys in (tables or {}).items():
        base[name] = {**base.get(name, {}), **keys}
    return {"compare": asked, **base, **({"arms": dict(arms)} if arms else {})}


def comparison(*arguments: Any, **compare: Any) -> Comparison:
    return parse_comparison(document(*arguments, **compare))


class Heard:
    """A watcher that keeps what it is told: (word, title of the job)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def observer(self, job: Job) -> Observer:
        return Silent()

    def begins(self, job: Job, done: int, of: int) -> None:
        self.told.append(("begins", job.title))

    def ends(self, job: Job) -> None:
        self.told.append(("ends", job.title))

    def fails(self, job: Job, reason: str) -> None:
        self.told.append(("fails", f"{job.title}: {reason}"))

    def waits(self, others: int) -> None:
        self.told.append(("waits", str(others)))

    def notes(self, text: str) -> None:
        self.told.append(("notes", text))

    def ends_all(self, error: Exception) -> bool:
        return False

    def all(self, word: str) -> list[str]:
        return [title for told, title in self.told if told == word]


def played(asked: Comparison, out: Path) -> tuple[Heard, dict[str, Failure]]:
    """Begin it in OUT, or go on there, and play it to its end."""
    begin(asked, out)
    heard = Heard()
    return heard, play(asked, out, heard, failures=Failures(out))
