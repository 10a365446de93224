"""A Python file of the user's own, of which a config names one thing: "path/to/file.py:name"."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from flexlora.errors import ConfigError, nearest
from flexlora.formats.plain_file import read_plain

_LARGEST = 1 << 24  # Bytes of source.

# What each file gave, by path and content: the same content runs once.
_RUN: dict[tuple[Path, bytes], ModuleType] = {}


@dataclass(frozen=True)
class UserFile:
    """A file as it was when it was read, and the name of what is wanted of it.

    kind: what that is, for errors ("metric", "rule"); shown: the path as it was given. It can be
    sent to another process, which then runs the same content, whatever became of the file.
    """

    kind: str
    shown: str
    name: str
    path: Path
    source: bytes

    @staticmethod
    def read(spec: str, kind: str, thing: Literal["function", "Class"]) -> UserFile:
        """Read the file that "path/to/file.py:name" names; thing: what the name is that of.

        A relative path is relative to the working directory. Raises ConfigError for what names no
        such thing, and for a file that cannot be read.
        """
        shown, _, name = spec.rpartition(":")
        try:
            path = Path(shown).expanduser().resolve()
        except (RuntimeError, ValueError, OSError) as error:  # No such user; a NUL; a circle.
            raise ConfigError(
                f"{kind} {spec!r} names no place of a file ({error}); give path/to/file.py:{thing}"
            ) from error
        if path.suffix != ".py" or not name.isidentifier():
            raise ConfigError(
                f"{kind} {spec!r} names no {thing.lower()}; give path/to/file.py:{thing}"
            )
        try:
            source = read_plain(path, _LARGEST)
        except OSError as error:
            raise ConfigError(
                f"{kind} file {shown} cannot be read ({error.strerror}); its path is relative to "
                "the working directory"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{kind} file {shown} {error}; give a Python file") from error
        return UserFile(kind, shown, name, path, source)

    @property
    def fingerprint(self) -> str:
        """sha256 of its bytes."""
        return hashlib.sha256(self.source).hexdigest()

    def named(self, offered: Callable[[object], bool]) -> object:
        """What the file holds under the name. It is run as Python, with all that this may do.

        offered: what else could have been named, for the error. Raises ConfigError for a file that
        fails, and for a name that it lacks.
        """
        module = self.module()
        found: object = getattr(module, self.name, None)
        if found is None:
            given = [
                key
                for key, value in vars(module).items()
                if offered(value) and _is_of(value, module)
            ]
            raise ConfigError(
                f"{self.kind} file {self.shown} has no {self.name!r}; "
                f"{nearest(self.name, given) if given else f'it holds no {self.kind}'}"
            )
        return found

    def module(self) -> ModuleType:
        """What running it gave. Raises ConfigError for a file that fails."""
        key = (self.path, self.source)
        if key in _RUN:
            return _RUN[key]
        digest = hashlib.sha256(f"{self.path}\0".encode() + self.source).hexdigest()
        # Not by the import system: that would leave compiled files beside the user's.
        module = ModuleType(f"flexlora_user_{self.path.stem}_{digest[:12]}")
        module.__file__ = str(self.path)
        sys.modules[module.__name__] = module  # Dataclasses in the file look themselves up here.
        try:
            exec(compile(self.source, str(self.path), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[module.__name__]
            raise ConfigError(
                f"{self.kind} file {self.shown} fails with {type(error).__name__}: "
                f"{' '.join(str(error).split())}; correct it"
            ) from error
        _RUN[key] = module
        return module


def _is_of(value: object, module: ModuleType) -> bool:
    """Whether the file made it: classes and functions say so, and may come from elsewhere."""
    named = isinstance(value, type) or callable(value)
    return not named or getattr(value, "__module__", None) == module.__name__
