"""From run directories to one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexlora.errors import RunError
from flexlora.extras import require_extras
from flexlora.formats.atomic import atomic_write
from flexlora.formats.home import expanded
from flexlora.report.blocks import Front
from flexlora.report.read import read_runs

NAME = "report.html"
PAGES = (".html", ".htm")


def write_report(
    runs: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    names: Sequence[str] | None = None,
    front: Front | None = None,
) -> Path:
    """Write one self-contained HTML page about these run directories and return where it lies.

    The page needs no network and forbids itself any. It has what the runs have: unfinished runs
    and runs without validation, spectra or partition get a sentence where numbers are missing.
    out: the file, which ends in .html, written whole or not at all, an existing one replaced;
    default `default_place`.
    names: as of `read_runs`; front: how the page begins (default: with the runs' names).
    Raises ConfigError where the extra flexlora[report] is not installed; RunError for no runs, the
    same one twice, a folder that is no run or whose files are damaged, or another `out`.
    """
    folders = _each_once(runs)
    target = expanded(out) if out is not None else default_place(folders)
    if target.is_dir():
        raise RunError(f"{target} is a folder; give the file to write, such as {target / NAME}")
    if target.suffix.lower() not in PAGES:  # A run's own files have other names.
        raise RunError(
            f"{target} is no name for a page, and a file of that name would be replaced; give one "
            f"that ends in .html, such as {target.with_suffix('.html')}"
        )
    atomic_write(target, report_page(folders, names=names, front=front))
    return target


def report_page(
    runs: Sequence[Path | str],
    *,
    names: Sequence[str] | None = None,
    front: Front | None = None,
) -> str:
    """The same page as text, written nowhere. Raises as `write_report` does."""
    folders = _each_once(runs)
    require_extras([("a report is asked for", "report")])
    from flexlora.report.page import page

    return page(read_runs(folders, names), front)


def _each_once(runs: Sequence[Path | str]) -> list[Path]:
    folders = [expanded(run) for run in runs]
    if not folders:
        raise RunError("a report needs at least one run; give a run directory")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise RunError(f"{folder} is given twice; name each run once")
        seen.add(folder.resolve())
    return folders


def default_place(folders: Sequence[Path]) -> Path:
    """Inside the run, for one; in the working directory for several: it is no single run's."""
    return folders[0] / NAME if len(folders) == 1 else Path(NAME)
