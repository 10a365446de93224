"""flexlora continue: a new run that goes on where another one stands."""

from __future__ import annotations

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
    from flexlora.federation import Session
    from flexlora.formats.atomic import require_free

    words = output(quiet=quiet, json=json)
    kept = int(round_) if re.fullmatch(r"[0-9]+", round_) else round_
    session = Session.continuing(parent, overrides=set_ or (), round=kept)
    if out is not None:
        require_free(out)
    start = session.start
    assert start is not None
    words.describe(session.setup)
    words.say(f"goes on from {origin(start.parent)}")
    with words.observer() as watching:
        result = session.play(out, observer=watching)
    words.results([result])
