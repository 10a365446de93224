"""How far the server goes along a round's sum, and by what clients weigh."""

from __future__ import annotations

from flexlora.config.table import Table, argument
from flexlora.rules.server import Server, Weighing


class ServerConfig(Table):
    """[server]: how far the server goes along a round's sum, and by what clients weigh."""

    step: float = argument(Server, "step", 1.0)
    momentum: float = argument(Server, "momentum", 0.0)
    weights: Weighing = argument(Server, "weights", "examples")
