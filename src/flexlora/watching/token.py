"""The token that lets a browser in: made for one server, or kept in a file for many."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from flexlora.errors import ConfigError
from flexlora.formats.home import expanded
from flexlora.formats.plain_file import read_plain
from flexlora.formats.refused import refused

_LARGEST = 1 << 12  # Bytes of the file.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,500}")


def made_token() -> str:
    """256 bits that nobody guesses."""
    return secrets.token_urlsafe(32)


def kept_token(path: Path) -> str:
    """The token in this file; where there is none, one is made there that its owner alone can read.

    Raises ConfigError for a file that others may read, or that holds no token.
    """
    path = expanded(path)
    try:
        if not path.exists():
            token = made_token()
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(token + "\n")
            return token
        token = read_plain(path, _LARGEST).decode("ascii", "replace").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise refused(path, error, "cannot use --token-file") from error
    except ValueError as error:
        raise ConfigError(f"--token-file {path} {error}; give a file with a token") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"--token-file {path} may be read by others; chmod 600 {path}")
    if _TOKEN.fullmatch(token) is None:
        raise ConfigError(
            f"--token-file {path} holds no token (16 letters, digits, - or _ at least, on one "
            "line); name a file that is not there, and one is made"
        )
    return token
