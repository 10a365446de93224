"""Evaluation on clients: each scores, on its own held-out part, what it would really use."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from flexlora.engines.jobs import Evaluate, Failure, Outcome, Scored
from flexlora.evaluation import ClientScore, Scores, get_metric
from flexlora.federation.guard import checked_score
from flexlora.federation.outcomes import NOTHING, Known, opened, why
from flexlora.runs.records import ClientScores, Spread

WORST_SHARE = 0.1


def collect_scores(
    jobs: Sequence[Evaluate], outcomes: Iterable[Outcome], known: Known = NOTHING
) -> tuple[list[ClientScore], list[Failure]]:
    """Good scores in order of client, and failures: what does not answer an open job, or lies."""
    open_jobs = {job.id: job for job in jobs}
    scores: dict[str, ClientScore] = {}
    failures: list[Failure] = []
    names = {name for job in jobs for name in (job.id, job.client)}
    for given in outcomes:
        outcome = opened(given, known, names)
        job = open_jobs.get(outcome.job)
        if job is None or job.client != outcome.client:
            reason = f"an answer to job {outcome.job!r}, which is not open for this client"
            failures.append(Failure(outcome.job, outcome.client, reason, "stray"))
            continue
        del open_jobs[job.id]
        if isinstance(outcome, Scored):
            try:
                scores[job.client] = checked_score(outcome.score, job.client, job.metrics)
            except Exception as error:  # Whatever a stranger sent, it is one client's failure.
                failures.append(Failure(job.id, job.client, why(error), "quarantine"))
        elif isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            reason = "an adapter where a score was asked for"
            failures.append(Failure(job.id, job.client, reason, "quarantine"))
    failures += [Failure(job.id, job.client, "no reply") for job in open_jobs.values()]
    return [scores[client] for client in sorted(scores)], failures


def summary(scores: Sequence[ClientScore]) -> ClientScores:
    """Each metric over these clients.

    mean: weighted by the clients' examples, as everywhere; of a summed metric the sum. worst: the
    plain mean over the worst 10 % of the clients (at least one). spread: the standard deviation
    over the clients. The scores are of the same metrics.
    """
    metrics = {}
    for name, mean in Scores(tuple(scores)).mean().values.items() if scores else ():
        values = [score.values[name] for score in scores]
        ranked = sorted(values, reverse=not get_metric(name).higher_is_better)
        worst = ranked[: max(1, math.ceil(WORST_SHARE * len(ranked)))]
        finite = all(map(math.isfinite, values))  # A perplexity may not be.
        spread = statistics.pstdev(values) if finite else math.nan
        metrics[name] = Spread(mean, statistics.fmean(worst), spread)
    return ClientScores(len(scores), sum(score.examples for score in scores), metrics)
