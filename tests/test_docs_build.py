"""The pages build without a warning, all links lead somewhere, and every public name is there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import flexlora
from flexlora.config.config import Config
from follow import ROOT

pytestmark = pytest.mark.whole

DOCS = ROOT / "docs"
_LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


@dataclass
class Page(HTMLParser):
    """Where a page's links lead, what its anchors are, and what it loads when it is opened."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if _LOADED.get(tag) in given:
            self.loads.append(given[_LOADED[tag]])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The built pages by path. Built as `make docs` does, but elsewhere."""
    folder = tmp_path_factory.mktemp("docs").resolve()
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(folder / "cache"), str(DOCS), str(folder / "html")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    built = {}
    for file in (folder / "html").rglob("*.html"):
        built[file] = Page()
        built[file].feed(file.read_text(encoding="utf-8"))
    return built


def test_no_link_is_dead(pages: dict[Path, Page]) -> None:
    dead = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("https", "mailto"):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = pages.get(target)
            found = target.is_file() and (
                known is None or parts.fragment in known.anchors | {"", "top"}
            )
            if not found or parts.scheme:
                dead.append(f"{file.name}: {link}")
    assert len(pages) > 12
    assert not dead, "\n".join(dead)


def test_opening_a_page_fetches_nothing(pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        for loaded in page.loads:
            parts = urlsplit(loaded)
            assert not parts.netloc, f"{file.name} loads {loaded}"
            assert (file.parent / unquote(parts.path)).exists(), f"{file.name} loads {loaded}"
    for sheet in next(iter(pages)).parent.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "@import" not in text, sheet
        assert "url(http" not in text.replace('"', "").replace("'", ""), sheet


def test_every_public_name_is_in_the_reference(pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for page in pages.values()))
    missing = [name for name in flexlora.__all__ if f"flexlora.{name}" not in anchors]
    assert not missing, f"add to docs/reference/: {', '.join(missing)}"


def test_every_command_and_table_of_the_config_is_in_the_reference(pages: dict[Path, Page]) -> None:
    from flexlora.cli.arguments import command_line, leaves
    from flexlora.cli.commands import app

    anchors = set().union(*(page.anchors for page in pages.values()))
    typed = leaves(command_line(app))
    commands = {f"flexlora-{name.replace(' ', '-')}" for name in typed}
    tables = {f"config-{name}" for name in Config.model_fields}
    assert len(commands) > 6
    assert not (commands | tables) - anchors


def test_every_page_of_the_guide_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in (DOCS / "guide").glob("*.md"):
        assert index.count(f"guide/{page.stem}") >= 2, f"{page.name}: in the table and in a toctree"
