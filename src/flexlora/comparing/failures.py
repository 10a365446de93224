"""failed.json: runs of a comparison that failed, and why; each is tried again at the next start."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from flexlora.comparing.cells import TUNING
from flexlora.comparing.folder import held
from flexlora.errors import FlexLoRAError, RoundError, TrainingError, cut_short
from flexlora.formats.atomic import atomic_write
from flexlora.formats.json_text import json_text
from flexlora.runs.files import UNREADABLE, damaged, read_table

FILE = "failed.json"
_DIVERGED = (RoundError.__name__, TrainingError.__name__)
_LONGEST = 500  # Characters of a reason.


@dataclass(frozen=True)
class Failure:
    """kind: the error's class; at: seconds since 1970 when it failed."""

    reason: str
    kind: str
    at: float

    def broke_down(self, run: str) -> bool:
        """Whether it is a tuning run whose training diverged: that is an answer, too."""
        return run.startswith(f"{TUNING}/") and self.kind in _DIVERGED


class Failures:
    """Of all processes that play in OUT. since: when this one began; older ones are tried again."""

    def __init__(self, out: Path, since: float | None = None) -> None:
        self.out = out
        self.since = time.time() if since is None else since

    def all(self) -> dict[str, Failure]:
        """Run (its path below OUT) → how it failed. Raises RunError for a damaged file."""
        path = self.out / FILE
        if not path.is_file():
            return {}
        try:
            return {
                run: Failure(str(told["reason"]), str(told["kind"]), float(told["at"]))
                for run, told in read_table(path).items()
            }
        except UNREADABLE as error:
            raise damaged(path, error) from error

    def now(self) -> dict[str, Failure]:
        """Those since this process began."""
        return {run: found for run, found in self.all().items() if found.at >= self.since}

    def add(self, run: str, error: Exception) -> str:
        """Note it; returns the reason."""
        reason = words(error)
        self._change(run, Failure(reason, type(error).__name__, time.time()))
        return reason

    def drop(self, run: str) -> None:
        """It went well after all."""
        if run in self.all():
            self._change(run, None)

    def _change(self, run: str, failure: Failure | None) -> None:
        with held(self.out, "failed"):
            found = self.all()
            found.pop(run, None)
            if failure is not None:
                found[run] = failure
            told = {name: asdict(x) for name, x in sorted(found.items())}
            atomic_write(self.out / FILE, json_text(told, indent=2) + "\n")


def words(error: Exception) -> str:
    """Why, in one line; with the kind of an error that nobody raises on purpose."""
    text = " ".join(str(error).split())
    told = text if isinstance(error, FlexLoRAError) else f"{type(error).__name__}: {text}"
    return cut_short(told, _LONGEST)
