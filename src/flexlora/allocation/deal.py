"""Which client has which device. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from flexlora.adapters import Ranks
from flexlora.allocation.devices import DeviceClass, require_known, require_once
from flexlora.allocation.mixes import Mix, draw
from flexlora.errors import ConfigError, shown

_NOBODY = Ranks.of(1)  # What is dealt here are devices; ranks follow from them.


def deal(
    classes: Sequence[DeviceClass],
    clients: Collection[str],
    generator: torch.Generator,
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Client → class, in order of client: by name where a class names it, else as it is known,
    else drawn.

    Classes that count their clients are dealt out in the proportion of their counts, to the clients
    that nobody names; see `mixes.draw`. known: client → class. Raises ConfigError for a client that
    is named twice or that there is not, and for one without a device where all classes name theirs.
    """
    require_once(classes)
    require_known(classes, sorted(clients))
    named = {client: kind.name for kind in classes for client in kind.named}
    counts = {kind.name: kind.clients for kind in classes if not kind.named}
    mine = {client: its for client, its in (known or {}).items() if its in counts}
    rest = [client for client in sorted(clients) if client not in named]
    if not rest:
        return dict(sorted(named.items()))
    if not counts:
        raise ConfigError(
            f"client {shown(rest[0])} has no device: every class names its clients, and none names "
            f"it ({len(rest)} such); name it, or give a class a number of clients"
        )
    total = sum(counts.values())
    mix = Mix(dict.fromkeys(counts, _NOBODY), {name: n / total for name, n in counts.items()})
    return dict(sorted({**named, **draw(mix, rest, generator, mine)}.items()))
