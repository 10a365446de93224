"""Going on with a run for more rounds, with other settings, as a new run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.config.settings import rule_of
from flexlora.federation.observers import Observer
from flexlora.federation.session import run
from flexlora.federation.setup import prepare
from flexlora.federation.starts import Parent
from flexlora.runs.results import Result


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
    opened = Parent.open(parent, round)
    config = opened.config_with(changes)
    rule = rule_of(config.rule)
    setup = prepare(config, threads=config.run.threads or opened.threads)
    start = opened.start(config, rule, setup)
    at_once = opened.at_once(config)
    return run(config, folder, observer=observer, setup=setup, start=start, at_once=at_once)
