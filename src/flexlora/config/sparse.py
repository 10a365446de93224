"""Whether a run begins with sparse rounds, and what it cannot have beside them."""

from __future__ import annotations

from collections.abc import Iterator

from flexlora.config.config import Config
from flexlora.config.training import SPARSE
from flexlora.errors import ConfigError


def sparse_rounds(config: Config) -> int:
    """The rounds of single weights before those of adapters: 0 but for host slora, and where every
    client trains alone.

    Raises ConfigError where none is left for adapters, and for what does not go with the host.
    """
    if config.training.host != "slora" or config.federation.mode == "local":
        return 0
    rounds = config.training.sparse_rounds or SPARSE
    most = config.federation.rounds
    if rounds >= most:
        raise ConfigError(
            f"training.host is slora, whose sparse rounds are {rounds}, but federation.rounds is "
            f"{most}, which leaves none for adapters; raise that, or lower training.sparse_rounds"
        )
    for words in _beside(config):
        raise ConfigError(f"training.host is slora, but {words}, or choose host fedit")
    return rounds


def _beside(config: Config) -> Iterator[str]:
    """What does not go with it, and why."""
    model = config.model
    if model.quantise != "none":
        yield (
            f"model.quantise is {model.quantise}, and weights of so few bits cannot be trained one "
            "by one; set it to none"
        )
    if model.init_from is not None:
        yield (
            f"model.init_from is {model.init_from}, and sparse rounds begin at the base itself; "
            "leave it out"
        )
    if config.screens.chosen:
        names = ", ".join(config.screens.chosen)
        yield f"[screens] has {names}, and screens judge adapters alone; leave it out"
