"""What all readers of a run directory share: small JSON files, and the error for damaged ones."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from flexlora.errors import RunError, cut_short
from flexlora.formats.json_file import json_table
from flexlora.formats.refused import refused

Record = dict[str, Any]
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_LARGEST = 1 << 30  # Bytes; a checkpoint's names grow with its clients and layers.
_REASON = 200  # Characters of what is wrong that are told at most.
CURE = "restore it, or start a new run"
# What reading and taking apart somebody's JSON or TOML may raise.
UNREADABLE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def read_table(path: Path) -> Record:
    """A JSON object. Raises RunError for a file that is missing, or holds anything else."""
    try:
        return json_table(path, limit_bytes=_LARGEST)
    except OSError as error:
        raise damaged(path, error) from error
    except ValueError as error:
        raise damaged(path, f"it {error}") from error


def damaged(path: Path, what: str | Exception = "") -> RunError:
    """what: is wrong with it, or what its reading ended in, as far as that tells anything."""
    if isinstance(what, OSError) and what.errno not in (None, *_NOT_THERE):
        return RunError(str(refused(path, what, "cannot read")))  # Perhaps nothing is damaged.
    reason = what if isinstance(what, str) else _words(what)
    told = f" ({cut_short(reason, _REASON)})" if reason else ""
    return RunError(f"{path} is missing or damaged{told}; {CURE}")


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return ""  # The system's words name the path again, and that it cannot be read is said.
    if isinstance(error, KeyError):
        return f"{error} is missing"  # By itself it is no more than the key.
    if isinstance(error, TypeError | AttributeError | IndexError):
        return "an entry is not of the kind that was written"  # Python's words name none of ours.
    return " ".join(str(error).split())
