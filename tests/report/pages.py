"""What a page says, read without a browser."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any


def words(page: Path) -> str:
    """The text of the body, tags taken out."""
    body = page.read_text().split("<body>")[1].split('<script type="application/json"')[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def figures(page: Path) -> list[dict[str, Any]]:
    """The specifications of its plots."""
    found = re.search(r'id="figures">(.*?)</script>', page.read_text())
    assert found
    return list(json.loads(found[1]))
