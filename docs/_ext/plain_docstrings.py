"""Docstrings here are plain prose with `code` in single backticks: made safe for Sphinx."""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"``?(?P<code>[^`]+)``?")


def plain(text: str) -> str:
    """Backticks become literals; what reStructuredText would read as markup stands for itself."""
    parts, end = [], 0
    for match in _CODE.finditer(text):
        parts += [_escaped(text[end : match.start()]), f"``{match['code']}``"]
        end = match.end()
        if text[end : end + 1].isalnum():
            parts.append("\\ ")  # "`prepare`d": a literal ends before a blank only
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return re.sub(r"[\\*|_]", r"\\\g<0>", text)


def _rewrite(*event: Any) -> None:
    lines: list[str] = event[-1]
    lines[:] = plain("\n".join(lines)).split("\n")


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _rewrite)
    return {"parallel_read_safe": True}
