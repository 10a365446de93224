"""How many of a round's clients a screen takes for hostile."""

from __future__ import annotations

from typing import Annotated

from flexlora.errors import TooFewError
from flexlora.options import Option

Share = Annotated[
    float,
    Option(
        "share of a round's clients that may be hostile, rounded down, one at least",
        above=0.0,
        below=0.5,
    ),
]


def needed_of(share: float, clients: int, *, least: int, each: int) -> int:
    """least + each · f, f the hostile of so many clients."""
    return least + each * _hostile(share, clients)


def hostile_of(screen: str, share: float, clients: int, *, least: int, each: int) -> int:
    """f of so many clients, of whom the screen needs least + each · f.

    Raises TooFewError where fewer came: it would promise nothing.
    """
    found, needed = _hostile(share, clients), needed_of(share, clients, least=least, each=each)
    if clients < needed:
        lower = ", or lower hostile" if found > 1 else ""
        raise TooFewError(
            f"screen {screen}: {clients} clients are left of the round, of whom {found} may be "
            f"hostile (screens.{screen}.hostile is {share:g}); it needs {needed}; ask more clients "
            f"a round{lower}",
            needed,
        )
    return found


def _hostile(share: float, clients: int) -> int:
    return max(1, int(share * clients + 1e-9))
