"""Where a command reads and writes, judged before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from flexlora.errors import AdapterError, InputError, RunError, cut_short
from flexlora.formats import atomic
from flexlora.formats.atomic import LONGEST_NAME, LONGEST_PART
from flexlora.formats.home import expanded


def require_free(out: Path | None, option: str = "--out") -> None:
    """Raise RunError, before anything is loaded, for what is there already or cannot be made."""
    if out is None:
        return
    atomic.require_free(out, option)
    require_place(out, option)


def require_place(out: Path, option: str = "--out") -> None:
    """Raise RunError, before any work, where nothing can be made under this name.

    The nearest folder above it that exists has to be one, and has to take new files.
    """
    out = expanded(out)
    # A folder above may be longer: nothing is written beside it.
    for part, most in [(out.name, LONGEST_NAME), *((x.name, LONGEST_PART) for x in out.parents)]:
        if len(os.fsencode(part)) > most:
            raise RunError(
                f"{cut_short(str(out))} cannot be made: {cut_short(part)} is a name of more than "
                f"{most} bytes; choose another {option}"
            )
    above = next(x for x in (out.parent, *out.parent.parents) if x == x.parent or x.exists())
    if not above.is_dir():
        raise RunError(f"{out} cannot be made: {above} is a file; choose another {option}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RunError(
            f"{out} cannot be made: {above} is not writable; make it so, or choose another {option}"
        )


def require_there(kind: Literal["adapter", "run"], *paths: Path) -> None:
    """Raise AdapterError or RunError for a path that does not exist, before options are judged."""
    kinds: dict[str, tuple[type[InputError], str]] = {
        "adapter": (AdapterError, "a PEFT folder"),
        "run": (RunError, "a run directory"),
    }
    error, what = kinds[kind]
    for path in paths:
        if not expanded(path).exists():
            raise error(f"{path} does not exist; give {what}")
