"""flexlora resume: go on with a run after any stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def resume(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """Go on after any stop; ends where an unbroken run would have ended."""
    from flexlora.cli.progress import observer
    from flexlora.cli.tables import results_table, say
    from flexlora.federation import resume as resume_federation
    from flexlora.federation.run_directory import Run

    config = Run.open(folder).config
    with observer(config.rule.name, config.federation.rounds) as watching:
        result = resume_federation(folder, observer=watching)
    results_table([result])
    say(f"run directory: {result.folder}")
