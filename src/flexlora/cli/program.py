"""What to type for this program, for commands that it tells people to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "flexlora"


def program() -> str:
    """`flexlora` where a shell finds this very program under that name, else what was typed.

    A program in an environment that is not activated is called by its path, `python -m flexlora`
    as such. Quoted for a shell.
    """
    began = Path(sys.argv[0])
    found = shutil.which(NAME)
    if began.name == "__main__.py":
        beside = shutil.which(NAME, path=str(Path(sys.executable).parent))
        if found and beside and _same(found, beside):
            return NAME
        return f"{shlex.quote(_short(sys.executable))} -m {NAME}"
    if not began.is_file() or began.stem != NAME or (found and _same(found, began)):
        return NAME
    return shlex.quote(str(began))


def _short(path: str) -> str:
    """From the working directory where it is below that."""
    try:
        here = os.getcwd()
    except OSError:  # It is gone.
        return path
    return os.path.relpath(path, here) if Path(path).is_relative_to(here) else path


def _same(one: str | Path, other: str | Path) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
