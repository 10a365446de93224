"""What watching costs: until a page shows a run, for one round more, and while nothing happens.

python benchmarks/watch.py [--out OUT.json]: a table; JSON beside it.
Needs Chromium and chromedriver.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from in_browser import table_of_pages
from report.browser import Browser
from watching.played import Played
from watching.serving import Serving

OUT = Path(__file__).parents[1] / "results" / "benchmarks" / "watch.json"
SIZES = ((20, 100), (200, 1600))  # Rounds, and clients, all of which train in each.
OPENINGS = 3
MORE = 3  # Rounds that land while the page is open.
IDLE = 10.0  # Seconds.
FIRST = "return performance.getEntriesByName('first-drawn')[0].startTime"
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
# The longest time between two frames, from here on.
SMOOTH = """
window.longest = 0; let last = performance.now();
const frame = (now) => { window.longest = Math.max(window.longest, now - last); last = now;
  requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""


def measure(folder: Path, browser: Browser, rounds: int, clients: int) -> dict[str, float]:
    """Milliseconds in the browser, of the start of navigation; seconds of this process's CPU."""
    played = Played(folder / f"run-{rounds}", clients=clients, rounds=rounds + MORE)
    played.start()
    for number in range(1, rounds + 1):
        played.whole_round(number)
    with played.run.locked():
        server = Serving([played.run.folder])
        try:
            began = time.perf_counter()
            with server.listening("/run/" + next(iter(server.places.runs)) + "/stream") as events:
                first = next(events)
            read = time.perf_counter() - began
            opened, painted = [], []
            for _ in range(OPENINGS):
                browser.open(f"{server.address}/run/run-{rounds}")
                opened.append(float(browser.js(FIRST)))
                painted.append(float(browser.js(PAINT)))
            idle = _idle()
            browser.js(SMOOTH)
            sent, shown = _land(played, server, browser, rounds)
            longest = float(browser.js("return window.longest"))
        finally:
            server.close()
    return {
        "rounds": rounds,
        "clients": clients,
        "log_MB": round((played.run.folder / "events.jsonl").stat().st_size / 1e6, 1),
        "first_read_ms": round(read * 1e3),
        "first_kB": round(len(json.dumps(first)) / 1e3, 1),
        "paint_ms": round(statistics.median(painted)),
        "drawn_ms": round(statistics.median(opened)),
        "round_kB": round(statistics.median(sent) / 1e3, 1),
        "round_shown_ms": round(statistics.median(shown) * 1e3),
        "longest_frame_ms": round(longest),
        "idle_cpu_%": round(100 * idle, 2),
    }


def _idle() -> float:
    """The share of one core that the server takes while a page is open and nothing happens."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(IDLE)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / IDLE


def _land(
    played: Played, server: Serving, browser: Browser, rounds: int
) -> tuple[list[int], list[float]]:
    """Bytes sent for each round more, and seconds from its last event until the page has it."""
    sent, shown = [], []
    with server.listening(f"/run/run-{rounds}/stream") as events:
        next(events)
        for more in range(1, MORE + 1):
            played.whole_round(rounds + more)
            began = time.perf_counter()
            words = f"{rounds + more} of {rounds + MORE}"
            while not browser.js(f"return document.body.innerText.includes({words!r})"):
                time.sleep(0.005)
            shown.append(time.perf_counter() - began)
            size = 0
            for _, messages in events:
                size += len(json.dumps(messages))
                if any(m["head"]["last"] == rounds + more for m in messages):
                    break
            sent.append(size)
    return sent, shown


if __name__ == "__main__":
    table_of_pages(__doc__, OUT, measure, SIZES)
