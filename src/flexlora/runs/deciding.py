"""Which round was the best."""

from __future__ import annotations

from flexlora.config.config import Config
from flexlora.errors import RoundError
from flexlora.evaluation import get_metric
from flexlora.runs.records import RoundRecord


def decide(config: Config, record: RoundRecord) -> float:
    """What the best round minimises: the chosen metric of the server's or the clients' validation.

    record: of a round that was validated by who decides. Raises RoundError where the clients
    decide and none gave a score.
    """
    metric = get_metric(config.evaluation.metric)
    chosen = metric.name
    if config.evaluation.decide_by == "server":
        assert record.validation is not None
        value = record.validation[chosen]
    else:
        assert record.on_clients is not None
        found = record.on_clients.shared.metrics.get(chosen)
        if found is None:
            raise RoundError(
                f"round {record.round}: no client gave a usable score, but "
                "evaluation.decide_by is 'clients'; see the reasons in events.jsonl"
            )
        value = found.mean
    return -value if metric.higher_is_better else value
