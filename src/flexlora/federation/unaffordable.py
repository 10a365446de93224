"""What to say where devices of a run cannot take part: who is closest, and by how much."""

from __future__ import annotations

from collections.abc import Mapping

from flexlora.allocation.memory import Setting
from flexlora.config.config import Config
from flexlora.errors import ConfigError
from flexlora.formats.words import size
from flexlora.planning.allotment import Cost, Costed, Work
from flexlora.planning.remedies import first_that
from flexlora.planning.words import duration


def no_room(
    model: Costed, work: Work, first: Mapping[str, int], who: str, whose: str = "it"
) -> ConfigError:
    """first: the least ranks that there are; who: has no room, and whose device that is."""
    needed, has = model.memory(first, work.heaviest).peak, work.kind.device.memory
    found = first_that(lambda x: model.memory(first, x).peak <= has, work.heaviest)
    cure = _in_config(work.heaviest, found.setting) if found else "take a smaller model"
    return ConfigError(
        f"{who} cannot hold {model.name}: at rank 1 it takes {size(round(needed))}, "
        f"{size(round(needed - has))} more than the {size(round(has))} that it has; {cure}, or "
        f"give {whose} another device"
    )


def too_late(config: Config, least: Mapping[str, Cost]) -> ConfigError:
    """least: class → what it takes at rank 1."""
    most = config.clients.most_bytes
    sent = min(x.traffic.total for x in least.values())
    if most is not None and sent > most:
        return ConfigError(
            f"clients.traffic is {config.clients.traffic}, which no device class keeps to: at rank "
            f"1 a client is sent and sends {size(sent)} a round, {size(round(sent - most))} too "
            "much; raise it, or adapt fewer layers with model.targets"
        )
    limit = config.federation.deadline_seconds
    assert limit is not None
    closest = min(least, key=lambda name: least[name].seconds)
    took = least[closest].seconds
    return ConfigError(
        f"federation.deadline is {config.federation.deadline}, which no device class meets: "
        f"{closest}, the closest, takes {duration(took)} a round at rank 1, "
        f"{duration(took - limit)} too long; raise it, or lower training.epochs or "
        "training.max_steps"
    )


def beyond(config: Config, cost: Cost, who: str) -> str:
    """Which limit of the config it misses at the least ranks, and by how much; "" for none.

    cost: at those.
    """
    most, sent = config.clients.most_bytes, cost.traffic.total
    if most is not None and sent > most:
        return (
            f"{who} is sent and sends {size(sent)} a round at rank 1, {size(round(sent - most))} "
            f"more than clients.traffic, {config.clients.traffic}; raise that, or adapt fewer "
            "layers with model.targets"
        )
    limit = config.federation.deadline_seconds
    if limit is not None and cost.seconds > limit:
        return (
            f"{who} takes {duration(cost.seconds)} a round at rank 1, "
            f"{duration(cost.seconds - limit)} longer than federation.deadline, "
            f"{config.federation.deadline}; raise that, or lower training.epochs or "
            "training.max_steps"
        )
    return ""


def _in_config(was: Setting, now: Setting) -> str:
    """The change in the keys of a config."""
    words = []
    if now.checkpointing != was.checkpointing:
        words.append("set model.checkpointing to true")
    if now.quantise != was.quantise:
        words.append(f"set model.quantise to {now.quantise}")
    if now.batch != was.batch:
        words.append(f"lower training.batch_size to {now.batch}")
    if now.length != was.length:
        words.append(f"lower data.max_tokens to {now.length}")
    return " and ".join(words)
