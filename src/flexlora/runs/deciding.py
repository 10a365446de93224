"""Which round was the best."""

from __future__ import annotations

from typing import Literal

from flexlora.errors import RoundError
from flexlora.runs.records import RoundRecord


def decide(
    metric: str, higher_is_better: bool, by: Literal["server", "clients"], record: RoundRecord
) -> float:
    """What the best round minimises: the chosen metric of the server's validation, or what the
    clients' own scores by it come to.

    record: of a round that was validated by who decides. Raises RoundError where the clients
    decide and none gave a score.
    """
    value = decisive(metric, higher_is_better, by, record)
    if value is None:
        raise RoundError(
            f"round {record.round}: no client gave a usable score, but "
            "evaluation.decide_by is 'clients'; see the reasons in events.jsonl"
        )
    return value


def decisive(
    metric: str, higher_is_better: bool, by: Literal["server", "clients"], record: RoundRecord
) -> float | None:
    """As `decide`; None for a round that has no such score."""
    if by == "server":
        value = None if record.validation is None else record.validation.values.get(metric)
    else:
        value = None if record.on_clients is None else record.on_clients.decisive
    if value is None:
        return None
    return -value if higher_is_better else value
