"""Base models in GGUF files, which llama.cpp reads: found here, and unpacked once into a cache.

A file's folder in the cache is named by the sha256 of its bytes, so that a file that is moved is
known again and one that is changed is not taken for what it was. It appears whole or not at all,
and is loaded as any other folder; whatever is not as it was written is made anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from flexlora.errors import ModelError
from flexlora.extras import require_extras
from flexlora.formats.atomic import atomic_folder, remove_folder
from flexlora.formats.checked import checked, file_digest, with_check
from flexlora.formats.gguf_header import read_gguf_header
from flexlora.formats.home import expanded
from flexlora.formats.refused import refused
from flexlora.formats.space import require_space
from flexlora.models.gguf_checks import require_readable
from flexlora.models.gguf_reading import (
    LARGEST_OUTLINE,
    unpacked_bytes,
    write_outline,
    write_weights,
)

EXTRA = "gguf"
CACHE = "FLEXLORA_CACHE"
"""The variable of the environment that names the cache."""
ENDING = ".gguf"
_RECORD = "whole.json"  # Name → sha256 of each file beside it.
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def cache_folder() -> Path:
    """Where unpacked models are kept: $FLEXLORA_CACHE, or else flexlora in the user's cache."""
    if named := os.environ.get(CACHE):
        return expanded(named)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "flexlora"


def is_gguf(place: Path) -> bool:
    """Whether it names a GGUF file, or a folder whose weights are in such files alone."""
    try:
        return bool(_files(place)) if place.is_dir() else place.suffix.lower() == ENDING
    except OSError:  # Which its reader tells of.
        return False


def gguf_file(place: Path, name: str) -> Path:
    """The one file of what `is_gguf` says True of. Raises ModelError for several."""
    files = _files(place) if place.is_dir() else [place]
    part = next((found for file in files if (found := _PART.search(file.name))), None)
    if part is not None and int(part[1]) > 1:
        raise ModelError(
            f"model {name} is in {int(part[1])} parts; join them into one file, with llama.cpp's "
            "llama-gguf-split --merge, and give that"
        )
    if len(files) > 1:
        held = ", ".join(file.name for file in files[:8]) + (", …" if len(files) > 8 else "")
        raise ModelError(f"model folder {name} has {len(files)} GGUF files: {held}; name one")
    return files[0]


def unpacked(file: Path, name: str, *, weights: bool = True) -> Path:
    """The folder with this file's model, made now if nobody did before.

    weights: with its weights, in float32; else what it is and its tokenizer alone. Every number of
    the file is kept: float32 holds all that it stands for. One process makes it, others wait.

    Raises ModelError for what is no such model or cannot be read, ConfigError without the extra
    flexlora[gguf], FlexLoRAError for a cache that cannot be written or has no room.
    """
    require_extras([(f"model {name} is a GGUF file", EXTRA)])
    file = file.absolute()
    try:
        stamp = _stamp(file)
        header = read_gguf_header(file)
        require_readable(header, name)
        digest = file_digest(file)
    except OSError as error:
        raise ModelError(
            f"model {name} cannot be read: {error.strerror or error}; give a GGUF file"
        ) from error
    except ValueError as error:
        raise ModelError(f"model {name} {error}; give a whole GGUF file: copy it again") from error

    def outlined(aside: Path) -> None:
        write_outline(file, header, name, aside)
        _require_unchanged(file, stamp, name)

    def whole(aside: Path) -> None:
        write_weights(file, header, name, outline, aside)
        _require_unchanged(file, stamp, name)

    cache = cache_folder() / EXTRA
    outline = _made(cache / f"{digest}-outline", LARGEST_OUTLINE, outlined)
    if not weights:
        return outline
    return _made(cache / f"{digest}-float32", unpacked_bytes(header), whole)


def _stamp(file: Path) -> tuple[int, int, int]:
    held = file.stat()
    return held.st_ino, held.st_size, held.st_mtime_ns


def _require_unchanged(file: Path, stamp: tuple[int, int, int], name: str) -> None:
    """What was read has the digest that it is kept under, unless somebody wrote to it meanwhile."""
    if not file.exists() or _stamp(file) != stamp:
        raise ModelError(f"model {name} was changed while it was read; try again")


def _files(folder: Path) -> list[Path]:
    """The GGUF files of a folder; none where it has safetensors, which go first."""
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ENDING)


def _made(folder: Path, nbytes: int, write: Callable[[Path], None]) -> Path:
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if _is_whole(folder):  # Another process may have made it meanwhile.
                return folder
            if os.path.lexists(folder):
                remove_folder(folder)
            require_space(folder, nbytes)
            with atomic_folder(folder) as aside:
                write(aside)
                _record(aside)
    except OSError as error:
        raise refused(folder, error) from error
    return folder


def _record(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != _RECORD)
    sums = {path.name: file_digest(path) for path in files}
    (folder / _RECORD).write_text(with_check(sums, indent=2)[0], encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    """Whether all its files are as they were written: a read of each, about as long as loading."""
    try:
        sums, _ = checked((folder / _RECORD).read_bytes())
        return all(file_digest(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError):
        return False
