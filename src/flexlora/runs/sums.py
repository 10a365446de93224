"""SHA256SUMS: what the files of a folder were when they were written; `sha256sum -c` reads it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from flexlora.errors import RunError
from flexlora.formats.checked import file_digest
from flexlora.runs.files import CURE, damaged

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\n]+)")


def write_sums(folder: Path) -> None:
    """Of all files that lie in the folder itself now."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    lines = [f"{file_digest(path)}  {path.name}\n" for path in files]
    (folder / NAME).write_bytes("".join(lines).encode())


def read_sums(folder: Path) -> Mapping[str, str]:
    """File name → sha256. Raises RunError where there is no such file, or another one."""
    try:
        lines = (folder / NAME).read_bytes().decode().splitlines()
    except OSError as error:
        raise damaged(folder / NAME, error) from error
    except ValueError as error:
        raise damaged(folder / NAME) from error
    found = [_LINE.fullmatch(line) for line in lines]
    if not lines or not all(found):
        raise damaged(folder / NAME)
    return {match[2]: match[1] for match in found if match}


def require_whole(folder: Path, names: Collection[str], sums: Mapping[str, str]) -> None:
    """Raise RunError for one of these files that is missing, not as it was, or foreign here."""
    for name in names:
        path = folder / name
        there = path.is_file()
        if not there and name in sums:
            raise RunError(f"{path} is missing; {CURE}")
        if there and name not in sums:
            raise foreign(path)
        if there and _digest(path) != sums[name]:
            raise RunError(
                f"{path} is damaged: it is not as it was written (its sha256 is not that in "
                f"{NAME}); {CURE}"
            )


def foreign(path: Path) -> RunError:
    """Of a file that nothing here has written."""
    return RunError(f"{path} is not of what was written here; remove it")


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise damaged(path, error) from error
