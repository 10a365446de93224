"""flexlora report: one self-contained HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexlora.cli.places import require_place


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run directories, one or more.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write; an existing one is replaced. Default: report.html in the run, "
            "or here for several.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one HTML page: scores, rounds, ranks, bytes, spectra, partition, failures, config."""
    from flexlora.cli.console import say
    from flexlora.formats.words import size
    from flexlora.report import write_report

    if out is not None:
        require_place(out)
    target = write_report(folders, out)
    say(f"report written to {target} ({size(target.stat().st_size)}, needs no network)")
