"""flexlora run: one federation from a config file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def run(
    config: Annotated[Path, typer.Argument(help="A TOML file; see examples/.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a key; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory to make (default: a new one in runs/).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, train nothing.")
    ] = False,
) -> None:
    """Run one federation; ends with a table and the run directory."""
    from flexlora.cli.progress import observer
    from flexlora.cli.tables import describe, results_table, say
    from flexlora.errors import RunError
    from flexlora.federation import load_config, prepare
    from flexlora.federation import run as run_federation
    from flexlora.rules import make_rule

    loaded = load_config(config, set_ or [])
    make_rule(loaded.rule.name, loaded.rule.options)
    if out is not None and os.path.lexists(out):
        raise RunError(f"{out} exists; choose another --out or remove it")
    setup = prepare(loaded)
    describe(setup)
    if dry_run:
        return
    with observer(loaded.rule.name, setup.schedule().rounds) as watching:
        result = run_federation(loaded, out, observer=watching, setup=setup)
    results_table([result])
    say(f"run directory: {result.folder}")
