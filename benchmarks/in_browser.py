"""What benchmarks of pages share: a browser for a table of sizes, printed and written as JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flexlora.runs.environment import environment
from report.browser import Browser

Measure = Callable[..., dict[str, Any]]


def table_of_pages(
    words: str | None, out: Path, measure: Measure, sizes: Sequence[tuple[int, ...]]
) -> None:
    """One row a size, from `measure(scratch, browser, *size)`; words: the command's help."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--out", type=Path, default=out, help="JSON to write")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        browser = Browser(Path(scratch) / "profile")
        try:
            rows = [measure(Path(scratch), browser, *size) for size in sizes]
            version = f"Chromium {browser.driver.capabilities['browserVersion']}"
        finally:
            browser.driver.quit()
    print("  ".join(rows[0]))
    for row in rows:
        print("  ".join(f"{row[name]:>{len(name)}}" for name in row))
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": {**environment(), "browser": version}, "rows": rows}
    out.write_text(json.dumps(document, indent=2) + "\n")
