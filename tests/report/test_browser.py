"""The page in a real browser: drawn, quiet, without network, readable on a phone, named."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from flexlora.report import write_report
from report.browser import Browser
from report.synthetic import synthetic_run

pytestmark = pytest.mark.whole

EVIL = "<img src=x onerror=\"document.title='owned'\"></script><b>"
HIDDEN = "n\u2028b\u202ec\x1b"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    big = synthetic_run(folder / "big")
    few = [
        synthetic_run(folder / f"few-seed{i}", rounds=4, clients=12, unseen=6, labels=4, seed=i)
        for i in range(2)
    ]
    evil = synthetic_run(folder / "evil", rounds=2, clients=8, unseen=4, labels=3, prefix=EVIL)
    hidden = synthetic_run(folder / "h", rounds=2, clients=8, unseen=4, labels=3, prefix=HIDDEN)
    return {
        "big": write_report([big], folder / "big.html"),
        "few": write_report(few, folder / "few.html"),
        "evil": write_report([evil], folder / "evil.html"),
        "hidden": write_report([hidden], folder / "hidden.html"),
    }


@pytest.mark.parametrize("name", ["big", "few", "evil", "hidden"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page(browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    browser.open(pages[name], width=width, scheme=scheme)
    assert browser.console() == []
    asked = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
    assert asked == []
    # A mark counts where it covers something: a path of no width and no height is not seen.
    plots = browser.js(
        "const seen = m => { const b = m.getBoundingClientRect();"
        " return b.width + b.height > 1 && (m.closest('.mark-rule, .mark-line') ||"
        " b.width * b.height > 1); };"
        "return [...document.querySelectorAll('.plot')].map(p => ["
        "[...p.querySelectorAll('.role-mark path, .role-mark line')].filter(seen).length,"
        "p.getAttribute('aria-label') || ''])"
    )
    assert len(plots) >= 10
    assert all(marks > 0 and label for marks, label in plots), plots
    assert int(browser.js("return document.documentElement.dataset.drawn")) == len(plots)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    narrowest = "return Math.max(...[...document.querySelectorAll('.plot svg')].map(s => "
    assert browser.js(narrowest + "s.getBoundingClientRect().right))") <= width


def test_nothing_of_a_run_is_code(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["evil"])
    assert browser.js("return document.title").startswith("evil")
    assert browser.js("return document.querySelectorAll('img').length") == 0
    assert EVIL in browser.js("return document.body.textContent")


def test_light_and_dark_differ_without_a_second_drawing(
    browser: Browser, pages: dict[str, Path]
) -> None:
    colours = (
        "const p = document.querySelector('.plot .mark-line path');"
        "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(p).stroke]"
    )
    browser.open(pages["few"], scheme="light")
    light = browser.js(colours)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.command("Emulation.setEmulatedMedia", {"features": features})
    dark = browser.js(colours)
    assert all(a != b for a, b in zip(light, dark, strict=True)), (light, dark)


def test_what_is_folded_is_printed(browser: Browser, pages: dict[str, Path]) -> None:
    heights = (
        "return [...document.querySelectorAll('details.folded table')]"
        ".map(t => t.checkVisibility({contentVisibilityAuto: true}) ? t.offsetHeight : 0)"
    )
    browser.open(pages["few"])
    folded = browser.js(heights)
    assert folded
    assert not any(folded)
    browser.command("Emulation.setEmulatedMedia", {"media": "print"})
    printed = browser.js(heights)
    boxes = browser.js(
        "return [...document.querySelectorAll('.scroll')]"
        ".map(b => [b.offsetHeight, b.firstElementChild.offsetHeight])"
    )
    browser.command("Emulation.setEmulatedMedia", {"media": ""})
    assert all(height > 20 for height in printed), printed
    assert all(box >= table for box, table in boxes), boxes  # None lies over what follows.


def test_numbers_open_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["few"])
    for details in browser.driver.find_elements(By.CSS_SELECTOR, "figure details")[:3]:
        details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        assert details.get_attribute("open")
        assert details.find_elements(By.CSS_SELECTOR, "tbody tr")


def test_everything_has_a_name(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["few"])
    nodes = browser.command("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("figure", "table", "region", "link", "heading", "graphics-document")
    unnamed = [
        node
        for node in nodes
        if node.get("role", {}).get("value") in roles
        and not node.get("ignored")
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
    ids = browser.js("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_tables_scroll_inside_their_boxes_and_keep_their_first_column(
    browser: Browser, pages: dict[str, Path]
) -> None:
    """On a phone, each of them, also those that are folded."""
    browser.open(pages["few"], width=390)
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    boxes = browser.js(
        "return [...document.querySelectorAll('.scroll')].map(box => {"
        " const style = getComputedStyle(box), outside = box.getBoundingClientRect();"
        " box.scrollLeft = box.scrollWidth;"
        " const cells = [...box.querySelectorAll('tr > :first-child')].map(cell => {"
        "  const at = cell.getBoundingClientRect();"
        "  return [at.left - outside.left, at.width / outside.width,"
        "   cell.scrollWidth - cell.clientWidth]; });"
        " const last = box.querySelector('thead th:last-child').getBoundingClientRect();"
        " return {right: outside.right, wide: box.scrollWidth > box.clientWidth + 1,"
        "  scrolls: style.overflowX, hint: style.backgroundImage, cells,"
        "  beyond: last.right - outside.right}; })"
    )
    assert len(boxes) >= 30
    assert sum(box["wide"] for box in boxes) >= 10
    for box in boxes:
        assert box["right"] <= 390
        assert box["scrolls"] == "auto"
        assert box["hint"].count("gradient") == 2
        assert box["beyond"] <= 1
        for left, share, hidden in box["cells"]:
            assert abs(left) <= 1
            assert share <= 0.5 or not box["wide"]
            assert hidden <= 1


def test_runs_of_a_histogram_stand_apart_under_their_names(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["few"])
    found = browser.js(
        "return [...document.querySelectorAll('.plot')]"
        ".filter(p => p.getAttribute('aria-label').startsWith('Change of '))"
        ".map(p => [...p.querySelectorAll('.mark-text.role-mark text')].map(t => t.textContent))"
    )
    assert found
    assert all(names == ["few-seed0", "few-seed1"] for names in found), found
