"""flexlora continue: a new run that goes on where another one stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.arguments import RunOption
from flexlora.cli.output import LOADING, READING, JsonOption, QuietOption, output
from flexlora.cli.places import require_free, require_place
from flexlora.cli.playing import playing
from flexlora.cli.trust import TrustOption, own_code, remember, require_trust


def continue_run(
    parent: Annotated[Path, typer.Argument(metavar="RUN", help="The run to go on from.")],
    round_: Annotated[
        str, typer.Option("--round", help="'last', 'best' by validation, or a kept round.")
    ] = "last",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change a key; may be repeated."),
    ] = None,
    out: RunOption = None,
    trust: TrustOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Play more rounds of a run, with other settings, as a new run that records its parent.

    --json: as of run.
    """
    words = output(quiet=quiet, json=json)
    with words.waiting(LOADING):
        from flexlora.cli.tables import origin
        from flexlora.federation import Session
    require_free(out)
    require_trust(parent, trust)
    session = Session.continuing(parent, overrides=set_ or (), round=round_)
    remember(own_code(session.config))  # Also what --set has named.
    if out is None:
        require_place(Path(session.config.run.out) / "new", "run.out")
    with words.waiting(READING):
        setup, start = session.setup, session.start
    assert start is not None
    words.describe(setup, session.rule)
    words.say(f"goes on from {origin(start.parent)}")
    with playing(words) as watching:
        result = session.play(out, observer=watching)
    words.results([result])
