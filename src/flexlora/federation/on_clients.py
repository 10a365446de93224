"""Evaluation on clients: each scores, on its own held-out part, what it would really use."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from flexlora.adapters import Delta, factors_payload
from flexlora.engines.jobs import Failure, Job, Outcome, Scored
from flexlora.errors import AdapterError
from flexlora.evaluation import ClientScore, Scores, get_metric
from flexlora.federation.guard import checked_score
from flexlora.formats.payloads import to_bytes
from flexlora.rules import Rule, State
from flexlora.runs.records import ClientScores, Spread
from flexlora.runs.store import ClientStore
from flexlora.training import Recipe

WORST_SHARE = 0.1


def evaluation_jobs(
    rule: Rule,
    state: State,
    store: ClientStore,
    clients: Sequence[str],
    recipe: Recipe,
    metrics: tuple[str, ...],
) -> list[Job]:
    """Each client is sent the global adapter at its own ranks: the rule's readout, against W₀.

    Clients of equal ranks are sent the same bytes, made once. Nothing is trained and no Δ is
    needed: the readout stands for all that was learned, as an export of that rank does.
    """
    made: dict[tuple[tuple[str, int], ...], bytes] = {}
    jobs = []
    for index, client in enumerate(clients):
        ranks = rule.ranks_for(state.spec, store.ranks[client])
        pattern = tuple(sorted(ranks.items()))
        if pattern not in made:
            made[pattern] = to_bytes(factors_payload(rule.readout(state, ranks)))
        payload = made[pattern]
        jobs.append(
            Job(
                id=f"{state.round}-evaluate-{index}",
                round=state.round,
                client=client,
                recipe=recipe,
                payload=payload,
                origin=False,
                delta=Delta(),
                bytes_down=len(payload),
                seed=0,
                kind="evaluate",
                metrics=metrics,
            )
        )
    return jobs


def collect_scores(
    jobs: Sequence[Job], outcomes: Iterable[Outcome]
) -> tuple[list[ClientScore], list[Failure]]:
    """Good scores in order of client, and failures: what does not answer an open job, or lies."""
    open_jobs = {job.id: job for job in jobs}
    scores: dict[str, ClientScore] = {}
    failures: list[Failure] = []
    for outcome in outcomes:
        job = open_jobs.get(outcome.job)
        if job is None or job.client != outcome.client:
            reason = f"an answer to job {outcome.job!r}, which is not open for this client"
            failures.append(Failure(outcome.job, outcome.client, reason))
            continue
        del open_jobs[job.id]
        if isinstance(outcome, Scored):
            try:
                scores[job.client] = checked_score(outcome.score, job.client, job.metrics)
            except AdapterError as error:
                failures.append(Failure(job.id, job.client, str(error)))
        elif isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            failures.append(Failure(job.id, job.client, "an adapter where a score was asked for"))
    failures += [Failure(job.id, job.client, "no reply") for job in open_jobs.values()]
    return [scores[client] for client in sorted(scores)], failures


def summary(scores: Sequence[ClientScore]) -> ClientScores:
    """Each metric over these clients.

    mean: weighted by the clients' examples, as everywhere. worst: the plain mean over the worst
    10 % of the clients (at least one). spread: the standard deviation over the clients. The scores
    are of the same metrics.
    """
    metrics = {}
    for name, mean in Scores(tuple(scores)).mean().values.items() if scores else ():
        values = [score.values[name] for score in scores]
        ranked = sorted(values, reverse=not get_metric(name).higher_is_better)
        worst = ranked[: max(1, math.ceil(WORST_SHARE * len(ranked)))]
        metrics[name] = Spread(mean, statistics.fmean(worst), statistics.pstdev(values))
    return ClientScores(len(scores), sum(score.examples for score in scores), metrics)
