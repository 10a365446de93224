"""flexlora report: one self-contained HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.places import require_place


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="Run directories, one or more; or the folder of one comparison."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write; an existing one is replaced. Default: report.html in the run "
            "or comparison, or here for several runs.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML page: scores, rounds, ranks, bytes, spectra, partition, failures, config."""
    from flexlora.cli.console import say
    from flexlora.comparing.comparison import FILE as COMPARISON
    from flexlora.comparing.page import write_comparison
    from flexlora.errors import RunError
    from flexlora.formats.home import expanded
    from flexlora.formats.words import size
    from flexlora.report import write_report

    if out is not None:
        require_place(out)
    folders = [expanded(folder) for folder in folders]
    compared = [folder for folder in folders if (folder / COMPARISON).is_file()]
    if compared and len(folders) > 1:
        raise RunError(
            f"{compared[0]} is a comparison, which has a page of its own; give it alone, or runs "
            f"as {compared[0] / 'cells' / '*' / '0'}"
        )
    target = write_comparison(compared[0], out) if compared else write_report(folders, out)
    say(f"report written to {target} ({size(target.stat().st_size)}, needs no network)")
