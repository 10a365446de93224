"""JSON as every parser reads it: without NaN and infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def json_text(value: object, *, indent: int | None = None, strict: bool = False) -> str:
    """JSON proper: NaN and infinity become null, or with `strict` raise ValueError."""
    plain = value if strict else _without_nan(value)
    return json.dumps(plain, indent=indent, allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
