"""One client's misfortune is its own: errors become failures of those who caused them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from flexlora.adapters import payload_adapter
from flexlora.engines.jobs import Failure, Job, Offer, Train
from flexlora.errors import DataError, FlexLoRAError, RuleError
from flexlora.formats.payloads import from_bytes
from flexlora.shortage import out_of_memory

T = TypeVar("T")
J = TypeVar("J", bound=Job)


def attempt(job: Job, do: Callable[[], T]) -> T | Failure:
    """What it gives, or this job's failure. Errors that are no client's doing are raised: so are
    those of a rule, which every client would meet."""
    try:
        return do()
    except RuleError:
        raise
    except (FlexLoRAError, RuntimeError, MemoryError) as error:
        if not isinstance(error, FlexLoRAError) and not out_of_memory(error):
            raise
        return failure(job, error)


def attempt_all(
    jobs: Sequence[J], do: Callable[[Sequence[J]], Iterable[T]]
) -> dict[J, T | Failure]:
    """What it gives for all at once, in their order; if that fails, for one after another."""
    if not jobs:
        return {}
    found = attempt(jobs[0], lambda: list(do(jobs)))
    if not isinstance(found, Failure):
        return dict(zip(jobs, found, strict=True))
    if len(jobs) == 1:
        return {jobs[0]: found}
    return {job: one for alone in jobs for job, one in attempt_all([alone], do).items()}


def offer(job: Train, reason: str) -> Offer | Failure:
    """Of a client that ran out of memory: half of each rank that it was sent; a failure where
    there is no half."""
    ranks = payload_adapter(from_bytes(job.payload)).ranks
    if max(ranks.values()) == 1:
        return Failure(job.id, job.client, reason)
    return Offer(job.id, job.client, {x: max(1, r // 2) for x, r in ranks.items()}, reason)


def failure(job: Job, error: Exception) -> Failure:
    """With the error's words, or at least its name, as the reason."""
    reason, private = str(error) or type(error).__name__, isinstance(error, DataError)
    return Failure(job.id, job.client, reason, private=private)
