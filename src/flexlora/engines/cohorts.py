"""Which jobs are done together, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flexlora.engines.attempts import J
from flexlora.engines.jobs import Evaluate, Job, Train, TrainSparse
from flexlora.tasks.prompts import Encoded

Examples = Mapping[str, Sequence[Encoded]]
Halved = Callable[[int, int], None]  # Told the round, and how many train at once from now on.


def ignore_halved(round: int, clients: int) -> None:
    """For whoever need not know."""


def cohorts(jobs: Sequence[J], data: Examples, size: int) -> list[list[J]]:
    """Jobs to do together: those to train at most `size`, of about as many steps and like ranks.

    Those to evaluate the same bytes are all done together, by whatever engine: how examples share
    a pass changes the last bits of their scores. The same for the same jobs in any order. The most
    work comes first: whoever does it in turns with others is then not kept waiting for a long one
    at the end.
    """
    work = {job: _work(job, data.get(job.client, ())) for job in jobs}
    kinds: dict[tuple[object, ...], list[J]] = {}
    for job in sorted(jobs, key=lambda job: (*work[job], job.client), reverse=True):
        kinds.setdefault(_kind(job), []).append(job)
    found = [part for mine in kinds.values() for part in cut_to_train(mine, size)]
    return sorted(found, key=lambda part: sum(work[job][2] for job in part), reverse=True)


def _work(job: Job, data: Sequence[Encoded]) -> tuple[int, int, int]:
    """(steps, bytes of the adapter, tokens) of a job; an evaluation counts as one step."""
    tokens = sum(len(x.prompt) + len(x.response) for x in data)
    if isinstance(job, Evaluate):
        return 1, len(job.payload), tokens
    return job.recipe.steps(len(data)), len(job.payload), tokens * job.recipe.epochs


def _kind(job: Job) -> tuple[object, ...]:
    if isinstance(job, Train):
        recipe = job.recipe
        return Train, id(job.delta), job.origin, job.sides, recipe.dropout, recipe.loss_on
    if isinstance(job, TrainSparse):
        return TrainSparse, job.id  # In the base itself, so each alone.
    return Evaluate, job.payload, job.metrics


def cut(jobs: Sequence[J], size: int) -> list[list[J]]:
    """The same jobs in the same order, at most `size` together."""
    return [list(jobs[begin : begin + size]) for begin in range(0, len(jobs), size)]


def cut_to_train(jobs: Sequence[J], size: int) -> list[list[J]]:
    """`cut` for jobs to train; those to evaluate stay together."""
    return cut(jobs, size if isinstance(jobs[0], Train) else len(jobs))
