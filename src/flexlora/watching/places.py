"""What is watched: runs that were given, those of a folder, and the cells of a comparison."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from flexlora.comparing.cells import TUNING, cell_folder
from flexlora.comparing.comparison import FILE as COMPARISON
from flexlora.comparing.comparison import Comparison, read_comparison
from flexlora.comparing.failures import FILE as FAILED
from flexlora.comparing.failures import Failure, Failures
from flexlora.errors import FlexLoRAError, RunError
from flexlora.formats.home import expanded
from flexlora.formats.visible import brief, visible
from flexlora.runs.run_directory import Run
from flexlora.watching.live import LiveRun, Tell
from flexlora.watching.values import LONGEST

MOST = 500  # Runs that one server watches.
_AGAIN = 2.0  # Seconds between two looks for runs that are new.


@dataclass
class Compared:
    """The folder of a comparison. cells: arm → seed → what addresses call the run."""

    folder: Path
    comparison: Comparison
    failures: Mapping[str, Failure] = field(default_factory=dict)
    cells: dict[str, dict[int, str]] = field(default_factory=dict)
    tuning: list[str] = field(default_factory=list)
    _seen: list[tuple[int, ...]] = field(default_factory=list)

    def read(self) -> None:
        """Its arms, seeds and failures as they are now. Raises RunError for damaged files."""
        seen = [_stamp(self.folder / name) for name in (COMPARISON, FAILED)]
        if seen != self._seen:
            self.comparison = read_comparison(self.folder)
            self.failures = Failures(self.folder).all()
            self._seen = seen

    def to_json(self) -> dict[str, Any]:
        return {
            "name": visible(self.folder.name),
            "seeds": list(self.comparison.settings.seeds),
            "cells": {visible(arm): seeds for arm, seeds in self.cells.items()},
            "tuning": self.tuning,
        }


@final
class Places:
    """All runs that are watched, by what addresses call them; no address is ever made a path."""

    def __init__(self, given: Sequence[Path], tell: Tell) -> None:
        """Raises RunError for what is neither a run, nor a comparison, nor a folder of them."""
        self.runs: dict[str, LiveRun] = {}
        self.compared: dict[str, Compared] = {}
        self.beyond = 0  # Runs that are too many.
        self.unread: dict[str, str] = {}  # Folder → why nothing in it is shown.
        self._tell = tell
        self._parents: list[Path] = []
        self._known: dict[Path, str] = {}  # Resolved → what addresses call it.
        self._searched = time.monotonic()
        for path in given:
            self._give(expanded(path))
        self.search()

    @property
    def grows(self) -> bool:
        """Whether runs may come to those that are here."""
        return bool(self._parents)

    def search(self) -> None:
        """Look for runs that have come to a folder of runs, or to a comparison."""
        self.beyond = 0
        self.unread = {}
        for folder in (folder for parent in self._parents for folder in _folders(parent)):
            try:
                if (folder / COMPARISON).is_file():
                    self._add_comparison(folder)
                elif (folder / "config.toml").is_file():
                    self._add(folder, folder.name)
            except (FlexLoRAError, OSError) as error:
                self.unread[folder.name] = _why(error)
        for link in (link for parent in self._parents for link in _folders(parent, linked=True)):
            if _holds(link) and link.resolve() not in self._known:
                self.unread[link.name] = "a link, which is not followed: give where it leads"
        for compared in self.compared.values():
            try:
                self._search_comparison(compared)
            except (FlexLoRAError, OSError) as error:  # As it was: it may be whole again.
                self.unread[compared.folder.name] = _why(error)

    def search_again(self) -> bool:
        """The same from time to time; whether anything has come."""
        if time.monotonic() < self._searched + _AGAIN:
            return False
        before = self._found()
        self.search()
        self._searched = time.monotonic()
        return before != self._found()

    def _found(self) -> tuple[object, ...]:
        return len(self.runs), len(self.compared), self.beyond, self.unread

    def layout(self) -> dict[str, Any]:
        """For the page: comparisons with their cells, how many runs there was no room for, and what
        cannot be looked into."""
        found = {slug: compared.to_json() for slug, compared in self.compared.items()}
        unread = [brief(f"{name}: {why}", LONGEST) for name, why in self.unread.items()]
        return {
            "runs": len(self.runs),
            "compared": found,
            "beyond": self.beyond,
            "unread": unread,
        }

    def _give(self, path: Path) -> None:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise RunError(f"{path} {what}; give a run directory, or a folder of runs")
        if (path / COMPARISON).is_file():
            self._add_comparison(path)
        elif (path / "config.toml").is_file():
            if path.resolve() in self._known:
                raise RunError(f"{path} is given twice; name each run once")
            Run.open(path)
            self._add(path, path.name or path.resolve().name)
        elif any(_holds(folder) for folder in _folders(path)):
            self._parents.append(path)
        else:
            raise RunError(
                f"{path} is no run, no comparison and no folder of runs: it has no config.toml; "
                "give a run directory"
            )

    def _add(self, folder: Path, name: str, arm: str = "") -> str:
        """Returns what addresses call it; "" where there is no room."""
        key = folder.resolve()
        if key not in self._known:
            if sum(run.state != "gone" for run in self.runs.values()) >= MOST:
                self.beyond += 1
                return ""
            slug = self._known[key] = _free(name, self.runs)
            self.runs[slug] = LiveRun(slug, name, folder, self._tell, arm)
        return self._known[key]

    def _add_comparison(self, folder: Path) -> None:
        if folder.resolve() in self._known:
            return
        comparison = read_comparison(folder)
        name = folder.name or folder.resolve().name
        slug = self._known[folder.resolve()] = _free(name, self.compared)
        self.compared[slug] = Compared(folder, comparison)

    def _search_comparison(self, compared: Compared) -> None:
        compared.read()
        for arm in compared.comparison.played:
            for seed in compared.comparison.settings.seeds:
                folder = cell_folder(compared.folder, arm.slug, seed)
                slug = self._add(folder, f"{arm.name}, seed {seed}", arm.name)
                compared.cells.setdefault(arm.name, {})[seed] = slug
        for config in sorted((compared.folder / TUNING).glob("*/*/*/config.toml")):
            arm_slug, rate, seed_name = config.parent.parts[-3:]
            name = f"tuning {arm_slug}, learning rate {rate}, seed {seed_name}"
            slug = self._add(config.parent, name, "tuning")
            if slug and slug not in compared.tuning:
                compared.tuning.append(slug)
        cells = [slug for seeds in compared.cells.values() for slug in seeds.values()]
        for slug in filter(None, [*cells, *compared.tuning]):
            run = self.runs[slug]
            failure = compared.failures.get(run.folder.relative_to(compared.folder).as_posix())
            run.failed = "" if failure is None else failure.reason


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file that is replaced; () without one."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _folders(parent: Path, *, linked: bool = False) -> Iterator[Path]:
    """linked: those that stand there as symbolic links, and no others."""
    try:
        found = sorted(x for x in parent.iterdir() if x.is_dir())
        yield from (x for x in found if x.is_symlink() == linked)
    except OSError:  # It has gone; what was found stays.
        return


def _holds(folder: Path) -> bool:
    try:
        return any((folder / name).is_file() for name in (COMPARISON, "config.toml"))
    except OSError:  # Others may not look into it.
        return False


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _free(name: str, taken: Container[str]) -> str:
    """The name in characters that need no escape in an address, with a number if it must."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "run"
    names = (plain if n == 1 else f"{plain}-{n}" for n in range(1, MOST + 2))
    return next(x for x in names if x not in taken)
