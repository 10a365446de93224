"""flexlora run: one federation from a config file."""

from __future__ import annotations

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
    from flexlora.federation import Session
    from flexlora.formats.atomic import require_free

    words = output(quiet=quiet, json=json)
    forced = ["model.init_force=true"] if force else []
    session = Session.of(load_config(config, [*(set_ or []), *forced]))
    if out is not None:
        require_free(out)
    if dry_run:
        words.plan(session.preview())
        return
    start = session.start
    words.describe(session.setup)
    if start is not None:
        words.say(f"starts from {origin(start.parent)}")
    with words.observer() as watching:
        result = session.play(out, observer=watching)
    words.results([result])


run.__doc__ = f"{run.__doc__}\n\n{EVENTS}"
