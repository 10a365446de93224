"""The one door to stdout and stderr: no text of others moves a cursor, no lost output is silent.

Everything that the command line prints passes here (`tests/test_architecture.py` holds it).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from flexlora.errors import FlexLoRAError
from flexlora.formats.visible import visible

PIPED = 132  # Columns of a wide table where stdout is no terminal.


class Unread(Exception):
    """Whoever read stdout has closed it."""


def say(text: str = "") -> None:
    """One line on stdout, never wrapped: paths stay whole, and a newline in a name is shown."""
    with _written():
        print(visible(text), flush=True)


def hand_over(text: str) -> None:
    """One line on stdout for machines, as it is: a path, or JSON, which escapes by itself."""
    with _written():
        print(text, flush=True)


def complain(text: str, *, keep: str = "") -> None:
    """One line on stderr; nobody can be told that it is gone. keep: as for `visible`."""
    with suppress(OSError):
        print(visible(text, keep), file=sys.stderr, flush=True)


@final
class Screen(Console):
    """A rich console that takes texts for texts: no markup, no emoji codes, nothing hidden.

    Strings are made visible before they are measured; what a `Text` holds, as it is drawn.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text, "\n"), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        with _written():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def screen(*, wide: bool = False) -> Screen:
    """Stdout for tables. wide: a table that is worth `PIPED` columns where there is no terminal."""
    # The file is named: while a tracker works, sys.stdout is not the terminal.
    plain = Screen(file=sys.stdout)
    return plain if plain.is_terminal or not wide else Screen(file=sys.stdout, width=PIPED)


@contextmanager
def waiting(what: str) -> Iterator[Status]:
    """Says on a terminal's stderr what is being done, until it is done; elsewhere nothing."""
    with Screen(stderr=True).status(what) as status:
        yield status


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        _discard()
        raise Unread from error
    except OSError as error:
        _discard()
        reason = error.strerror or str(error)
        raise FlexLoRAError(
            f"stdout cannot be written: {reason}; send it elsewhere, or make room for it"
        ) from error


def _discard() -> None:
    """What was not written goes nowhere: else the interpreter would try again as it ends."""
    with suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
