"""The live page in a real browser: it follows rounds, runs and the server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from flexlora.runs.events import Noted
from flexlora.runs.run_directory import Run
from report.browser import Browser
from watching.played import Played
from watching.serving import Serving, serving

pytestmark = pytest.mark.whole

EVIL = "<img src=x onerror=\"document.title='owned'\"></script><b>"


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Played]:
    """One under way, one finished, one that has stopped."""
    first = Played(tmp_path / "runs" / "first", clients=7)
    first.start()
    for round in (1, 2):
        first.whole_round(round)
    first.begin(3)
    first.reply(3, first.clients[:3])
    first.fail(3, first.clients[3], f"no reply {EVIL}")
    done = Played(tmp_path / "runs" / "done", seed=1)
    done.start()
    for round in range(1, 6):
        done.whole_round(round)
    done.finish()
    return {"first": first, "done": done}


def until(browser: Browser, script: str, wanted: Any = True) -> None:
    WebDriverWait(browser.driver, 20, 0.05).until(
        lambda driver: driver.execute_script(f"return {script}") == wanted, script
    )


def says(browser: Browser, words: str) -> None:
    until(browser, f"document.body.innerText.includes({words!r})")


SQUARES = "[0, 1, 2].map(i => document.querySelectorAll(`.clients .client-${i}`).length)"


@pytest.mark.parametrize(
    ("path", "width", "scheme"),
    [
        ("/", 1280, "light"),
        ("/", 390, "dark"),
        ("/run/first", 390, "light"),
        ("/run/done", 1280, "dark"),
    ],
)
def test_a_page(
    browser: Browser, runs: dict[str, Played], path: str, width: int, scheme: str
) -> None:
    with runs["first"].run.locked(), serving(runs["first"].run.folder.parent) as server:
        browser.open(server.address + path, width=width, scheme=scheme)
        plots = browser.js(
            "return [...document.querySelectorAll('.plot svg')].filter(p => p.clientWidth).map(p =>"
            " [p.querySelectorAll('path').length, p.getAttribute('aria-label'), p.tabIndex,"
            " p.getBoundingClientRect().right])"
        )
        assert len(plots) >= 2
        for marks, label, index, right in plots:
            assert marks > 0
            assert label
            assert index == 0
            assert right <= width
        assert browser.js("return document.documentElement.scrollWidth") <= width
        assert browser.console() == []
        asked = [url for url in browser.requests() if not url.startswith("data:")]
        assert len(asked) > 5
        assert all(url.startswith(server.address) for url in asked), asked
        assert browser.js("return document.querySelectorAll('img').length") == 0
        nodes = browser.command("Accessibility.getFullAXTree", {})["nodes"]
        roles = ("figure", "table", "region", "link", "heading", "image", "progressbar", "button")
        unnamed = [
            node
            for node in nodes
            if node.get("role", {}).get("value") in roles
            and not node.get("ignored")
            and not node.get("name", {}).get("value")
        ]
        assert unnamed == []


def test_the_page_follows_a_round(browser: Browser, runs: dict[str, Played]) -> None:
    played = runs["first"]
    with played.run.locked(), serving(played.run.folder.parent) as server:
        browser.open(f"{server.address}/run/first")
        assert browser.js(f"return {SQUARES}") == [3, 3, 1]
        says(browser, "Round 3: 3 of 7 clients in flight.")
        says(browser, f"left out: no reply {EVIL}")
        played.reply(3, played.clients[4:])
        until(browser, SQUARES, [0, 6, 1])
        says(browser, "Round 3: combining and scoring.")
        played.end(3, [played.clients[3]])
        says(browser, "3 of 5")
        until(browser, "document.querySelectorAll('figure:last-of-type .dot').length", 3)
        played.begin(4)
        until(browser, SQUARES, [7, 0, 0])
        for round in (4, 5):
            played.whole_round(round)
        played.finish()
        says(browser, "✓ finished")
        assert browser.js("return document.title").startswith("first ✓ finished")
        assert browser.console() == []


def test_a_run_is_killed_and_goes_on(browser: Browser, runs: dict[str, Played]) -> None:
    played = runs["first"]
    with serving(played.run.folder.parent) as server:
        with played.run.locked():
            browser.open(f"{server.address}/run/first", width=390)
            says(browser, "▶ running")
        says(browser, "Stopped in round 3: no process plays it. Go on with: flexlora resume ")
        until(browser, "document.querySelector('.warning').hidden", False)
        again = Run.open(played.run.folder)
        with again.locked():
            again.truncate_log(2)
            played.run = again
            played.start(2)
            says(browser, "Resumed after round 2")
            until(browser, "document.querySelector('.warning').hidden")
            played.begin(3)
            until(browser, SQUARES, [7, 0, 0])
        assert browser.console() == []


def test_the_server_goes_and_comes_back(browser: Browser, runs: dict[str, Played]) -> None:
    played = runs["first"]
    server = Serving([played.run.folder.parent])
    browser.open(f"{server.address}/")
    says(browser, "live")
    server.close()
    says(browser, "the server does not answer; trying again")
    for round in (3, 4):
        played.whole_round(round)
    again = Serving([played.run.folder.parent], port=server.port)
    try:
        until(browser, "document.getElementById('live').textContent", "live")
        says(browser, "round 4 of 5")
        played.whole_round(5)
        says(browser, "round 5 of 5")
    finally:
        again.close()
    refused = [line for line in browser.console() if "ERR_" not in line]
    assert refused == []


def test_what_cannot_be_read_is_named(browser: Browser, runs: dict[str, Played]) -> None:
    folder = runs["done"].run.folder.parent
    with serving(folder) as server:
        browser.open(server.address)
        assert not browser.js("return document.body.innerText.includes('Not shown')")
        (folder / "cut<b>").mkdir()
        (folder / "cut<b>" / "compare.toml").write_text("[compare]\n")
        says(browser, "Not shown, for it cannot be read: cut<b>: ")


@pytest.mark.parametrize("path", ["/", "/run/first", "/run/waits"])
def test_runs_that_cannot_be_read_have_gone_or_wait(
    browser: Browser, runs: dict[str, Played], path: str
) -> None:
    folder = runs["first"].run.folder
    waits = Played(folder.parent / "waits")
    with serving(folder.parent) as server:
        browser.open(server.address + path)
        until(browser, "document.documentElement.dataset.drawn !== undefined")
        log = folder / "events.jsonl"
        kept = log.read_bytes()
        log.unlink()
        log.mkdir()  # What nobody can read as a file.
        shutil.rmtree(waits.run.folder)
        wanted = {
            "/": "stopped",
            "/run/first": "events.jsonl cannot be read",
            "/run/waits": "Its folder is not there any more.",
        }
        if path != "/":
            says(browser, wanted[path])
        else:
            until(browser, "document.querySelectorAll('.is-damaged').length > 0")
            runs["done"].run.append_event(Noted("news"))
            until(browser, "document.querySelectorAll('.plot svg path').length > 0")
        log.rmdir()
        log.write_bytes(kept)
        if path == "/run/first":
            until(browser, "[...document.querySelectorAll('.plot svg')].some(p => p.clientWidth)")
        assert [x for x in browser.console() if "TypeError" in x or "RangeError" in x] == []


def test_another_token_is_said(browser: Browser, runs: dict[str, Played]) -> None:
    folder = runs["first"].run.folder
    server = Serving([folder], token="one-token-of-a-server")
    browser.open(f"{server.address}/run/first?token=one-token-of-a-server")
    assert browser.js("return location.search") == ""
    says(browser, "live")
    server.close()
    again = Serving([folder], port=server.port, token="another-token-of-it")
    try:
        says(browser, "the server was started again with another token")
    finally:
        again.close()


def test_all_of_it_by_keyboard(browser: Browser, runs: dict[str, Played]) -> None:
    with runs["first"].run.locked(), serving(runs["first"].run.folder.parent) as server:
        browser.open(server.address)
        link = browser.driver.find_element(By.CSS_SELECTOR, "a[href='/run/first']")
        link.send_keys(Keys.ENTER)
        until(
            browser,
            "location.pathname === '/run/first' && !!document.querySelector('svg.clients path')",
        )
        clients = browser.driver.find_element(By.CSS_SELECTOR, "svg.clients")
        clients.send_keys(Keys.ARROW_RIGHT)
        says(browser, "client-0000, laptop: replied, loss ")
        for _ in range(3):
            clients.send_keys(Keys.ARROW_RIGHT)
        says(browser, "client-0003: left out: no reply")
        chart = browser.driver.find_elements(By.CSS_SELECTOR, "figure .plot svg")[1]
        chart.send_keys(Keys.END)
        says(browser, "Round 2: ")
        chart.send_keys(Keys.ARROW_LEFT)
        says(browser, "Round 1: ")
        for summary in browser.driver.find_elements(By.TAG_NAME, "summary"):
            summary.send_keys(Keys.ENTER)
        until(browser, "document.querySelectorAll('details[open] tbody tr').length", 7 + 2 + 2)
        assert browser.console() == []


def test_a_page_that_is_hidden_asks_for_nothing(browser: Browser, runs: dict[str, Played]) -> None:
    """And is told on its return what it missed."""
    played = runs["first"]
    with played.run.locked(), serving(played.run.folder.parent) as server:
        browser.open(f"{server.address}/run/first")
        hide = (
            "Object.defineProperty(document, 'hidden', { value: %s, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        browser.js(hide % "true")
        WebDriverWait(browser.driver, 20).until(
            lambda _: not server.server.server_state.tasks, "the stream ends"
        )
        drawn = browser.js("return document.documentElement.dataset.drawn")
        played.reply(3, played.clients[4:])
        assert browser.js("return document.documentElement.dataset.drawn") == drawn
        browser.js(hide % "false")
        until(browser, SQUARES, [0, 6, 1])
