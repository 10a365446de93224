"""What a reply is beside all others of its round: who is out of all proportion does not count."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from flexlora.engines.jobs import Failure
from flexlora.federation.admission import Collected


def quarantined(collected: Collected, jobs: Mapping[str, str], limit: float) -> list[Failure]:
    """Take whose size is beyond the limit out of what was collected; why, in order of client.

    jobs: client → the id of its job; limit: as of `beyond`.
    """
    reasons = beyond({x: collected.sizes[x] for x in sorted(collected.sizes)}, limit)
    found = [Failure(jobs[x], x, reason, "quarantine") for x, reason in reasons.items()]
    for failure in found:
        collected.leave_out(failure)
    return found


def beyond(sizes: Mapping[str, float], limit: float) -> dict[str, str]:
    """Client → why, of those whose size is above so many times the median of the round.

    Of an even number the lower median counts, so that of two clients one can be beyond; where half
    of them have not moved, none is.
    """
    median = statistics.median_low(sizes.values()) if sizes else 0.0
    if not median:
        return {}
    times = {client: size / median for client, size in sizes.items()}
    return {
        client: f"the norm of its update is {found:.3g} times the median of the round, expected at "
        f"most {limit:g} times; see federation.norm_limit"
        for client, found in times.items()
        if found > limit
    }
