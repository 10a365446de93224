"""flexlora continue: a new run that goes on where another one stands."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.output import JsonOption, QuietOption, output


def continue_run(
    parent: Annotated[Path, typer.Argument(metavar="RUN", help="The run to go on from.")],
    round_: Annotated[
        str, typer.Option("--round", help="'last', 'best' by validation, or a kept round.")
    ] = "last",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change a key; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory to make (default: a new one in runs/).")
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Play more rounds of a run, with other settings, as a new run that records its parent.

    --json: as of run.
    """
    from flexlora.cli.tables import origin
    from flexlora.config.settings import rule_of
    from flexlora.errors import RunError
    from flexlora.federation import prepare
    from flexlora.federation import run as run_federation
    from flexlora.federation.starts import Parent

    words = output(quiet=quiet, json=json)
    opened = Parent.open(parent, int(round_) if re.fullmatch(r"[0-9]+", round_) else round_)
    config = opened.config_with({}, set_ or [])
    rule = rule_of(config.rule)
    if out is not None and os.path.lexists(out):
        raise RunError(f"{out} exists; choose another --out or remove it")
    setup = prepare(config, threads=config.run.threads or opened.threads)
    start = opened.start(config, rule, setup)
    words.describe(setup)
    words.say(f"goes on from {origin(start.parent)}")
    with words.observer() as watching:
        result = run_federation(config, out, observer=watching, setup=setup, start=start)
    words.results([result])
