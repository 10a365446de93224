"""flexlora resume: go on with a run after any stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexlora.cli.output import LOADING, READING, JsonOption, QuietOption, output
from flexlora.cli.playing import may_resume, playing
from flexlora.cli.trust import TrustOption, require_trust

if TYPE_CHECKING:
    from flexlora.runs.events import Ended


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    trust: TrustOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Go on after any stop; ends where an unbroken run would have ended. --json: as of run.

    A run that has ended is not scored again: its table is shown.
    """
    words = output(quiet=quiet, json=json)
    with words.waiting(LOADING):
        from flexlora.federation import Session
    may_resume(folder)
    ended = _ended(folder)
    if ended is not None:
        words.ended(ended)
        return
    require_trust(folder, trust)
    session = Session.resuming(folder)
    with words.waiting(READING):
        _ = session.setup
    with playing(words) as watching:
        result = session.play(observer=watching)
    words.results([result])


def _ended(folder: Path) -> Ended | None:
    """How the run ended; None for one that has not, or whose results are to be made again."""
    from flexlora.errors import RunError
    from flexlora.runs.run_directory import Run

    run = Run.open(folder)
    _ = run.resolved  # Damage there is told, whatever the results are.
    try:
        return run.ended()
    except RunError:
        return None
