"""The hooks of rules and screens, watched: errors name them, and what they are given stays.

They come from files that no test of ours has seen. An error out of one would else name neither it,
nor its method, nor the layer; and what it changes in place is what others are given, too.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import FlexLoRAError, RuleError, cut_short
from flexlora.shortage import out_of_memory

Hook = Callable[..., Any]

_UNCHECKED = ("penalty",)  # Between a forward and a backward pass, torch itself looks after that.
_WATCHED = "_watched"


def watch(watched: type, hooks: frozenset[str], what: str, part: type | None = None) -> None:
    """Watch those of the hooks that this class defines itself. A method that is final in a base is
    none: RuleError for one of its name.

    what: "rule" or "screen", as errors call it. part: of the arguments that have a name to be told.
    """
    for name, held in list(vars(watched).items()):
        above = (getattr(base, name, None) for base in watched.__bases__)
        if any(getattr(inherited, "__final__", False) for inherited in above):
            raise RuleError(
                f"{what} {_name(watched)} has a {name!r} of its own, which is what every {what} "
                "does with its methods; give it another name"
            )
        if name in hooks and inspect.isfunction(held) and not hasattr(held, _WATCHED):
            setattr(watched, name, _watched(name, held, what, part))


def _watched(method: str, hook: Hook, what: str, part: type | None) -> Hook:
    names = list(inspect.signature(hook).parameters)[1:]

    def told(watched: object, given: Mapping[str, Any]) -> str:
        held = [x for x in given.values() if part and isinstance(x, part)]
        parts = [f", layer {getattr(x, 'name', '')}" for x in held]
        return f"{method} of {what} {_name(type(watched))}{''.join(parts)}"

    @functools.wraps(hook)
    def call(self: object, *given: Any, **named: Any) -> Any:
        arguments = {**dict(zip(names, given, strict=False)), **named}
        before = [] if method in _UNCHECKED else list(_tensors(arguments))
        try:
            found = hook(self, *given, **named)
        except FlexLoRAError:
            raise
        except Exception as error:
            # Whoever called may ask for less; a disk's errors have words of their own.
            if out_of_memory(error) or _of_a_disk(error, hook):
                raise
            raise RuleError(f"{told(self, arguments)}: {_said(error, hook)}") from error
        for argument, tensor, version in before:
            if _version(tensor) != version:
                raise RuleError(
                    f"{told(self, arguments)} changes in place what it is given as {argument}, "
                    "which others are given too; change a clone() of it"
                )
        return found

    setattr(call, _WATCHED, True)
    return call


def _tensors(given: Mapping[str, Any]) -> Iterator[tuple[str, Tensor, int]]:
    """What can be changed in place of states, adapters and memories: argument, tensor, version."""
    for argument, value in given.items():
        for item in value.values() if isinstance(value, Mapping) else ():
            for x in (item.b, item.a) if isinstance(item, Factors) else (item,):
                if isinstance(x, Tensor):
                    yield argument, x, _version(x)


def _version(x: Tensor) -> int:
    """Counted by torch at every change in place, of a view of it too."""
    return 0 if x.is_inference() else x._version


def _name(watched: type) -> str:
    return str(getattr(watched, "name", watched.__name__))


def _said(error: Exception, hook: Hook) -> str:
    """In one line: what went wrong, and in which line of its file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == hook.__code__.co_filename]
    at = (own or frames)[-1]
    try:
        text = " ".join(str(error).split())
    except Exception:  # A stranger's error.
        text = ""
    said = f"{type(error).__name__}: {cut_short(text, 300)}" if text else type(error).__name__
    file = at.filename.replace("\\", "/").rpartition("/")[2]
    return f"{said} ({file}, line {at.lineno})"


def _of_a_disk(error: Exception, hook: Hook) -> bool:
    """What contributions lie on, as they are read: no line of the hook's has opened anything."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, OSError) and frames[-1].filename != hook.__code__.co_filename
