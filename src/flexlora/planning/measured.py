"""How fast a folder's disk and a link are: measured only where somebody says where."""

from __future__ import annotations

import os
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from flexlora.errors import ConfigError, shown

_WRITTEN = 64 << 20  # Bytes that are written and read again.
_CHUNK = 4 << 20
_FETCHED = 64 << 20  # Bytes of a link at most,
_SECONDS = 5.0  # and for so long at most.


def disk_rate(folder: Path) -> float:
    """Bytes a second of reading a file that was written there for it, and is gone afterwards.

    The system is asked to forget what it holds of it, where it can be asked. Raises ConfigError for
    a folder that cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            noise = os.urandom(_CHUNK)
            for _ in range(max(1, _WRITTEN // _CHUNK)):
                file.write(noise)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began, read = time.perf_counter(), 0
            while part := file.read(_CHUNK):
                read += len(part)
            return read / (time.perf_counter() - began)
    except OSError as error:
        raise ConfigError(
            f"--disk is {folder}, which cannot be measured: {error.strerror}; give a folder that "
            "can be written"
        ) from error


def link_rate(url: str) -> float:
    """Bytes a second from this address, of some 64 MB or five seconds, the first answer aside.

    Raises ConfigError for what is no web address, does not answer, or sends too little to tell.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--link is {shown(url)}; give an address, like https://host/large-file")
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            answer.read(1)
            began, came = time.perf_counter(), 0
            while came < _FETCHED and time.perf_counter() - began < _SECONDS:
                part = answer.read(1 << 16)
                if not part:
                    break
                came += len(part)
            took = time.perf_counter() - began
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ConfigError(
            f"--link is {shown(url)}, which sends nothing: {error}; give a file that can be fetched"
        ) from error
    if came < 1 << 16:
        raise ConfigError(
            f"--link is {shown(url)}, which sent {came:,} bytes, too few to tell a rate; give a "
            "larger file"
        )
    return came / took
