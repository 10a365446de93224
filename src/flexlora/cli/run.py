"""flexlora run: one federation from a config file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.output import EVENTS, JsonOption, QuietOption, output


def run(
    config: Annotated[Path, typer.Argument(help="A TOML file; see examples/.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory to make (default: a new one in runs/).")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Take model.init_from though it was made for another base."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, train nothing.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Run one federation; ends with a table and the run directory."""
    from flexlora.cli.tables import origin
    from flexlora.config import load_config
    from flexlora.config.settings import rule_of, screens_of
    from flexlora.errors import RunError
    from flexlora.federation import prepare
    from flexlora.federation import run as run_federation
    from flexlora.federation.forecast import forecast
    from flexlora.federation.starts import warm_start

    words = output(quiet=quiet, json=json)
    loaded = load_config(config, [*(set_ or []), *(["model.init_force=true"] if force else [])])
    rule = rule_of(loaded.rule)
    screens_of(loaded.screens)  # In a dry run, too, a wrong one is told.
    if out is not None and os.path.lexists(out):
        raise RunError(f"{out} exists; choose another --out or remove it")
    setup = prepare(loaded)
    start = warm_start(loaded, rule, setup)
    if dry_run:
        words.plan(setup, forecast(setup, rule), start)
        return
    words.describe(setup)
    if start is not None:
        words.say(f"starts from {origin(start.parent)}")
    with words.observer() as watching:
        result = run_federation(loaded, out, observer=watching, setup=setup, start=start)
    words.results([result])


run.__doc__ = f"{run.__doc__}\n\n{EVENTS}"
