"""A small JSON file that somebody else may have written, read within limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flexlora.formats.plain_file import read_plain


def json_table(path: Path, *, limit_bytes: int) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises what `read_plain` does, before anything is parsed, and ValueError that says what is
    wrong: no JSON, no object, text that is no Unicode.
    """
    data = read_plain(path, limit_bytes)
    try:
        table = json.loads(data)
        json.dumps(table, ensure_ascii=False).encode()  # Half of a surrogate pair is no text.
    except (ValueError, RecursionError) as error:
        raise ValueError("is not readable JSON") from error
    if not isinstance(table, dict):
        raise ValueError("is not a JSON table")
    return table
