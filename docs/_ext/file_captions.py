"""A block that the page's reader saves as a file carries that file's name as its caption."""

from __future__ import annotations

import re
from typing import Any

_MARK = re.compile(r"^<!-- file: (?P<name>\S+) -->\n(?P<fence>```+)(?P<kind>\w+)\n", re.MULTILINE)


def _caption(_app: Any, _page: str, source: list[str]) -> None:
    source[0] = _MARK.sub(r"\g<fence>{code-block} \g<kind>\n:caption: \g<name>\n\n", source[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _caption)
    return {"parallel_read_safe": True}
