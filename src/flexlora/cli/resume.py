"""flexlora resume: go on with a run after any stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.output import JsonOption, QuietOption, output
from flexlora.cli.playing import may_resume, playing
from flexlora.cli.trust import TrustOption, require_trust


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    trust: TrustOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Go on after any stop; ends where an unbroken run would have ended. --json: as of run."""
    from flexlora.federation import Session

    words = output(quiet=quiet, json=json)
    may_resume(folder)
    require_trust(folder, trust)
    session = Session.resuming(folder)
    with playing(words) as watching:
        result = session.play(observer=watching)
    words.results([result])
