"""The report page of a comparison: its own section, then one run of each arm side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flexlora.comparing.cells import Cell, finished
from flexlora.comparing.findings import Findings
from flexlora.comparing.section import section
from flexlora.errors import RunError
from flexlora.extras import require_extras
from flexlora.formats.words import count
from flexlora.report import report_page, write_report
from flexlora.report.blocks import Block, Front, Note, Section
from flexlora.report.write import NAME


def write_comparison(out: Path, target: Path | None = None) -> Path:
    """Write one self-contained page about what is finished in OUT; returns where it lies.

    target: the file; default report.html in OUT. All cells are in the section "Comparison"; the
    sections of runs have those of the first seed on which most arms are finished.
    Raises as `write_report` does, and RunError where nothing is finished.
    """
    shown, front = _contents(out)
    folders, names = [cell.folder for cell in shown], [cell.arm for cell in shown]
    return write_report(folders, target or out / NAME, names=names, front=front)


def comparison_page(out: Path) -> str:
    """The same page as text, written nowhere. Raises as `write_comparison` does."""
    shown, front = _contents(out)
    folders, names = [cell.folder for cell in shown], [cell.arm for cell in shown]
    return report_page(folders, names=names, front=front)


def _contents(out: Path) -> tuple[list[Cell], Front]:
    """The cells whose runs are shown, and what stands before theirs."""
    cells = [cell for cell in finished(out) if cell.config is not None]
    if not cells:
        raise RunError(f"no cell of {out} is finished yet; play it with: flexlora compare")
    require_extras([("a report is asked for", "report")])
    findings = Findings.of(out)
    seed, shown = _one_seed(cells)
    arms, seeds = len(findings.arms), len(findings.settings.seeds)
    return shown, Front(
        findings.name,
        f"A comparison of {count(arms, 'arm')} over {count(seeds, 'seed')}",
        _with_figures(findings, section(findings), seed),
    )


def _one_seed(cells: Sequence[Cell]) -> tuple[int, list[Cell]]:
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    seed = max(by_seed, key=lambda seed: len(by_seed[seed]))  # The first of those with most.
    return seed, by_seed[seed]


def _with_figures(findings: Findings, made: Section, seed: int) -> Section:
    from flexlora.comparing.figures import figures  # Altair, of the extra.

    blocks: list[Block] = [*made.blocks, *figures(findings)]
    blocks.append(Note(f"All sections below show one run of each arm: seed {seed}."))
    return replace(made, blocks=tuple(blocks))
