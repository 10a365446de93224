"""Which jobs are done together, in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexlora.engines.jobs import Job
from flexlora.tasks.prompts import Encoded

Examples = Mapping[str, Sequence[Encoded]]


def cohorts(jobs: Sequence[Job], data: Examples, size: int) -> list[list[Job]]:
    """Jobs to do together, at most `size`: those of about as many steps, and of like ranks.

    The same for the same jobs in any order. The most work comes first: whoever does it in turns
    with others is then not kept waiting for a long one at the end.
    """

    lengths = {
        job: [len(x.prompt) + len(x.response) for x in data.get(job.client, ())] for job in jobs
    }
    tokens = {job: sum(lengths[job]) * job.recipe.epochs for job in jobs}

    def like(job: Job) -> tuple[int, int, int, str]:
        recipe = job.recipe
        steps = -(-len(lengths[job]) // recipe.batch_size) * recipe.epochs
        return min(steps, recipe.max_steps or steps), len(job.payload), tokens[job], job.client

    kinds: dict[tuple[object, ...], list[Job]] = {}
    for job in sorted(jobs, key=like, reverse=True):
        recipe = job.recipe
        kind = (
            job.kind,
            id(job.delta),
            job.origin,
            job.sides,
            recipe.dropout,
            recipe.loss_on,
        )
        kinds.setdefault(kind, []).append(job)
    found = [part for mine in kinds.values() for part in cut(mine, size)]
    return sorted(found, key=lambda part: sum(tokens[job] for job in part), reverse=True)


def cut(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """The same jobs in the same order, at most `size` together."""
    return [list(jobs[begin : begin + size]) for begin in range(0, len(jobs), size)]
