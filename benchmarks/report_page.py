"""How long a report takes to write and to open, and how large it is.

python benchmarks/report_page.py [--out OUT.json]: a table; JSON beside it.
Needs Chromium and chromedriver.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from flexlora.report import write_report
from in_browser import table_of_pages
from report.browser import Browser
from report.synthetic import synthetic_run

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "report_page.json"
SIZES = ((20, 100), (200, 1600))
OPENINGS = 5
DRAWN = "return performance.getEntriesByName('figures-drawn')[0].startTime"


def measure(folder: Path, browser: Browser, rounds: int, clients: int) -> dict[str, float]:
    """Milliseconds from the start of navigation until every figure is drawn; the median of five."""
    run = synthetic_run(folder / f"run-{rounds}", rounds=rounds, clients=clients)
    began = time.perf_counter()
    page = write_report([run])
    wrote = time.perf_counter() - began
    opened = []
    for _ in range(OPENINGS):
        browser.open(page)
        opened.append(float(browser.js(DRAWN)))
    return {
        "rounds": rounds,
        "clients": clients,
        "figures": int(browser.js("return document.querySelectorAll('.plot').length")),
        "megabytes": round(page.stat().st_size / 1e6, 3),
        "write_seconds": round(wrote, 2),
        "open_milliseconds": round(statistics.median(opened)),
        "open_milliseconds_worst": round(max(opened)),
    }


if __name__ == "__main__":
    table_of_pages(__doc__, OUT, measure, SIZES)
