"""Whether two names mean one base model."""

from __future__ import annotations

import os
from pathlib import Path


def same_base(one: str, other: str) -> bool:
    """True for equal names, paths to one place, and names with the same last component."""
    ours, theirs = (os.path.realpath(os.path.expanduser(name)) for name in (one, other))
    return one == other or ours == theirs or Path(one).name == Path(other).name != ""
