"""Digests that tell a flipped bit, a lost line or a file of something else.

They are for accidents: who changes a file on purpose can write its digest anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.formats.json_text import json_text

DIGITS = 16  # Of the 64 of a sha256: one change in 2⁶⁴ goes unseen.
_KEY = "check"
_LINE = re.compile(rb'(?P<body>\{.*),\s+"check": "(?P<check>[0-9a-f]{16})"\s*\}\n?', re.DOTALL)


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex. Raises OSError for one that cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_check(
    record: Mapping[str, Any], before: str = "", *, indent: int | None = None
) -> tuple[str, str]:
    """(a JSON object with its `check` as the last entry, that check).

    before: the check of what stands before it, which goes into its own: of a chain, no member can
    be lost or moved.
    """
    assert record, "there is nothing to check"
    body = json_text(dict(record), indent=indent)[:-1].rstrip("\n")
    check = check_of(body.encode(), before)
    between, end = (" ", "") if indent is None else ("\n" + " " * indent, "\n")
    return f'{body},{between}"{_KEY}": "{check}"{end}}}', check


def checked(text: bytes, before: str = "") -> tuple[dict[str, Any], str]:
    """What `with_check` was given, and the check. Raises ValueError for anything else."""
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError("it has no check at its end")
    check = found["check"].decode()
    if check_of(found["body"], before) != check:
        raise ValueError(f"it is not as it was written: its check is not {check}")
    try:
        record = json.loads(found["body"] + b"}")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    return record, check


def check_of(body: bytes, before: str = "") -> str:
    """The check of these bytes, behind what has the check `before`."""
    return hashlib.sha256(before.encode() + body).hexdigest()[:DIGITS]
