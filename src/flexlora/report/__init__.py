"""Floor 5: reports. Reads run directories only; needs the extra flexlora[report]."""

from __future__ import annotations

from flexlora.report.write import default_place, report_page, write_report

__all__ = ["default_place", "report_page", "write_report"]
