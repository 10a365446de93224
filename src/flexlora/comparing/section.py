"""A comparison as blocks: the same for Markdown and for the report page."""

from __future__ import annotations

from flexlora.comparing.budgets import diagnostics, views
from flexlora.comparing.findings import Findings
from flexlora.comparing.sentences import primary, standing
from flexlora.comparing.tables import categories, differences, on_clients, owners, scores
from flexlora.report.blocks import Block, Note, Section
from flexlora.report.common import base_models


def section(findings: Findings) -> Section:
    """The primary sentence first, then the base model and what is missing, then the tables: scores
    by what is compared first, then the compared part by other metrics, then what clients scored."""
    blocks: list[Block] = [Note(primary(findings)), *base_models(findings.models)]
    blocks += [Note(text, warning=True) for text in standing(findings)]
    for part in findings.parts:
        blocks += scores(findings, part)
    blocks += differences(findings, findings.settings.part)
    for other in findings.others():
        blocks += scores(other, findings.settings.part)
        blocks += differences(other, findings.settings.part)
    for each in (findings, *findings.others()):
        blocks += on_clients(each)
    blocks += owners(findings)
    blocks += views(findings)
    for part in findings.parts:
        blocks += categories(findings, part)
    blocks += diagnostics(findings)
    return Section("comparison", "Comparison", tuple(blocks))
