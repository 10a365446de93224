"""A smaller job in the same round, for a client that ran out of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flexlora.engines.jobs import Failure, Offer, Train
from flexlora.federation.sending import Sender, Sending
from flexlora.rules import State
from flexlora.runs.store import ClientStore


def smaller(
    sender: Sender, state: State, store: ClientStore, asked: Sending, offer: Offer
) -> Train | Failure:
    """The job at the ranks that its client offers, in the place of the one before, whose id it has;
    the store keeps the ranks. Both sendings count.

    A Failure, and nothing changed, where the offer is none, or the rule lets no client train at
    ranks of its own, or what the client remembers has the ranks that it had.
    """
    found = {job.id: (place, job) for place, job in enumerate(asked.jobs)}.get(offer.job)
    if found is None or found[1].client != offer.client:
        return Failure(offer.job, offer.client, offer.reason)  # Who collects says what is wrong.
    (place, job), rule = found, sender.rule
    ranks = _lower(store.ranks[job.client], offer.ranks)
    why = ""
    if not rule.traits.mixed_ranks:
        why = f"rule {rule.name} trains all at one rank; lower that of [clients]"
    elif rule.traits.memory and job.answered is not None:
        why = f"under rule {rule.name} it remembers what has its rank; lower that of [clients]"
    elif ranks is None:
        why = "it offers no lower rank"
    if ranks is None or why:
        return Failure(job.id, job.client, f"{offer.reason}; {why}")
    store.ranks[job.client] = ranks
    made = sender.training(state, store, [job.client], job.kept, job.attempt)
    (new,) = made.jobs
    new = replace(new, id=job.id, bytes_down=job.bytes_down + new.bytes_down)
    asked.jobs[place] = new
    asked.sent[job.client] = made.sent[job.client]
    return new


def _lower(held: Mapping[str, int], offered: object) -> dict[str, int] | None:
    """Layer by layer the lower of both; None for what is no offer of whole ranks of 1 or more, and
    where nothing is lower."""
    if not isinstance(offered, Mapping):
        return None
    given = {layer: offered.get(layer, rank) for layer, rank in held.items()}
    if not all(type(rank) is int and rank >= 1 for rank in given.values()):
        return None
    ranks = {layer: min(rank, given[layer]) for layer, rank in held.items()}
    return None if ranks == dict(held) else ranks
