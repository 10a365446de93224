"""What Python users call: one function for each way to begin a session and play it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.config.config import Config
from flexlora.federation.observers import Observer
from flexlora.federation.session import Session
from flexlora.federation.setup import Setup
from flexlora.runs.results import Result


def run(
    config: Config,
    folder: Path | str | None = None,
    *,
    observer: Observer | None = None,
    setup: Setup | None = None,
) -> Result:
    """Run one federation and score it on the unseen examples.

    folder: the run directory to make (default: a new one under `run.out`); setup: one that was
    `prepare`d before, perhaps from another config: what this one says the same of is not made anew.
    Raises InputErrors before anything is written, RoundError if no client of a round replies.
    """
    return Session.of(config, setup).play(folder, observer=observer)


def resume(folder: Path | str, *, observer: Observer | None = None) -> Result:
    """Go on after any stop: the same bits, in process on the CPU, as if there had been none.

    The model runs where it ran. Raises RunError for a folder that is no run, for data that has
    changed since, and on a machine without that device.
    """
    return Session.resuming(folder).play(observer=observer)


def continue_run(
    parent: Path | str,
    changes: Mapping[str, Mapping[str, Any]],
    folder: Path | str | None = None,
    *,
    round: int | str = "last",
    observer: Observer | None = None,
) -> Result:
    """A new run that goes on where `parent` stood after a round; the parent stays as it is.

    changes: tables of the parent's config, as for `make_config`: {"federation": {"rounds": 80}};
    federation.rounds counts from the first round of all and must exceed the round that is
    continued. folder: as for `run`; round: "last", "best" or the number of a kept checkpoint.
    State, Δ, client ranks and held versions are the parent's; the best round so far and patience
    begin anew. With nothing but federation.rounds raised, the last state equals that of one long
    run, bit for bit (in process, on the CPU). Another federation.seed splits the data anew: what
    was trained on may then be held out. Raises as `Parent` says, and as `run` does.
    """
    session = Session.continuing(parent, changes, round=round)
    return session.play(folder, observer=observer)
