"""The files of a run that are written once, when it is made: what was asked, derived and read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from flexlora.config.config import Config
from flexlora.config.config_file import load_config
from flexlora.config.toml import read_toml
from flexlora.errors import ConfigError, RunError
from flexlora.formats.json_fields import texts
from flexlora.formats.json_text import json_text
from flexlora.runs.environment import environment
from flexlora.runs.fields import PARENT, RESOLVED, truth, typed
from flexlora.runs.files import Record, damaged, read_table
from flexlora.runs.sums import read_sums, require_whole, write_sums
from flexlora.tasks.trained import Trained

FORMAT_VERSION = 3
_DIGEST = re.compile(r"[0-9a-f]{16}")
_PERHAPS = ("parent.json",)  # In the folder of a run that has none, it is foreign.


def write_once(
    folder: Path,
    config: Config,
    resolved: Mapping[str, Any],
    data: Mapping[str, Any],
    parent: Mapping[str, Any] | None,
    trained: Trained,
) -> None:
    """Into a folder that holds no other file yet; and their sums."""
    (folder / "config.toml").write_bytes(config.to_toml().encode())
    (folder / "resolved.toml").write_bytes(tomli_w.dumps(resolved).encode())
    (folder / "environment.json").write_text(json_text(environment(), indent=2))
    (folder / "data.json").write_text(json_text(dict(data), indent=2))
    (folder / "format.json").write_text(json_text({"version": FORMAT_VERSION}))
    if parent is not None:
        (folder / "parent.json").write_text(json_text(dict(parent), indent=2))
    told = {"whole": trained.whole, "digests": sorted(trained.digests)}
    (folder / "trained.json").write_text(json_text(told, indent=0))
    write_sums(folder)


def read_config(folder: Path | str) -> Config:
    """The config of a run, of which all files that are written once are as they were.

    Raises RunError for what is no run, one of another format, and one with a file that is not.
    """
    path = Path(folder)
    for name in ("config.toml", "format.json"):
        if not (path / name).is_file():
            raise RunError(f"{folder} is no run: it has no {name}; give a run directory")
    version = read_table(path / "format.json").get("version")
    if version != FORMAT_VERSION:
        shown = version if type(version) is int else "no number"
        raise RunError(
            f"{folder} has run format {shown}, this FlexLoRA reads {FORMAT_VERSION}; "
            "use the FlexLoRA that wrote it"
        )
    sums = read_sums(path)
    require_whole(path, sorted({*_PERHAPS, *sums}), sums)
    try:
        return load_config(path / "config.toml")
    except ConfigError as error:
        raise RunError(f"{folder} has a config that cannot be used: {error}") from error


def read_resolved(folder: Path) -> Record:
    """Each entry of its type where it is there. Raises RunError for a damaged one."""
    path = folder / "resolved.toml"
    try:
        record = read_toml(path)
    except OSError as error:
        raise damaged(path, error) from error
    except ValueError as error:  # Its cure is for who writes such a file, not for who finds it.
        raise damaged(path, f"it {str(error).rpartition(';')[0]}") from error
    try:
        return typed(record, RESOLVED)
    except ValueError as error:
        raise damaged(path, error) from error


def read_parent(folder: Path) -> Record | None:
    """None where there is none. Raises RunError for a damaged one."""
    path = folder / "parent.json"
    if not path.is_file():
        return None
    try:
        return typed(read_table(path), PARENT, ("start", "path", "kind", "rule", "round"))
    except ValueError as error:
        raise damaged(path, error) from error


def read_trained(folder: Path) -> Trained:
    """Of a run that has no such file, nothing is known. Raises RunError for a damaged one."""
    path = folder / "trained.json"
    if not path.is_file():
        return Trained(whole=False)
    table = read_table(path)
    try:
        digests = texts(table, "digests")
        if not all(map(_DIGEST.fullmatch, digests)):
            raise ValueError("digests has what is none")
        return Trained(frozenset(digests), truth(table, "whole"))
    except ValueError as error:
        raise damaged(path, error) from error
