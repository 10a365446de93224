"""What the clients' scores come to where they decide: no few of them can say which round is best.

Clients differ far more than rounds do, so each is held to itself: its score less its level, which
is how far it stood from the figure of the best round that it scored. The figure of a round is the
median of that, one client one vote, since what a client weighs is its own word. Who has scored none
before has no level, and no vote: its score says who it is, not which round is better. A round is
better than the best one where more than half of the clients that scored both say so. With a share h
< ½ of liars, whatever they claim, the figure lies between the (½ − h)/(1 − h) and the ½/(1 − h)
quantile of the honest clients' own (h = 0.2: 37.5 % and 62.5 %).

Source: of all estimates that move with what they estimate, the median has the smallest largest bias
under contamination of a symmetric, unimodal distribution (Huber 1981, Robust Statistics, §4.2).
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence

from flexlora.evaluation import ClientScore

_FARTHEST = sys.float_info.max / 4  # Of which differences and means of two are numbers.


def told_by(scores: Sequence[ClientScore], metric: str) -> dict[str, float]:
    """Client → its score, of those for whom it is a number; what is infinite, within bounds."""
    found = {score.client: score.values[metric] for score in scores if metric in score.means}
    return {
        client: min(max(value, -_FARTHEST), _FARTHEST)
        for client, value in found.items()
        if not math.isnan(value)
    }


def figure(told: Mapping[str, float], levels: Mapping[str, float], best: float) -> float | None:
    """The median of the scores less the clients' levels, of those that have one; None where nobody
    told any.

    Where nobody has a level yet it is the median of the scores; where others have, and none of
    these, `best`, the figure of the best round so far: nothing says that this one is better.
    """
    if not told:
        return None
    if not levels:
        return statistics.median(told.values())
    known = [value - levels[client] for client, value in told.items() if client in levels]
    return statistics.median(known) if known else best


def levels_after(
    told: Mapping[str, float], levels: Mapping[str, float], at: float | None, *, best: bool
) -> dict[str, float]:
    """The levels after a round of figure `at`. best: it is the best so far, to which all that
    scored it are held from here on; else only those that had no level get theirs."""
    if at is None:
        return dict(levels)
    new = {client: value - at for client, value in told.items()}
    return {**levels, **new} if best else {**new, **levels}
