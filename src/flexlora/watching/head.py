"""How a run stands, in the plain values that head its page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from flexlora.formats.visible import all_visible, visible
from flexlora.runs.standing import Standing
from flexlora.watching.values import ON_CLIENTS, short, state_words

_MOVING = ("at", "elapsed", "left")  # What passes by itself: a page has a clock of its own.


def state_of(known: Standing, begun: bool, playing: bool) -> str:
    """In the words of `overview`."""
    if known.ended:
        return "finished"
    if playing:
        return "running"
    if not begun:
        return "never started"
    exhausted = known.progress.exhausted(known.config.federation.patience)
    return "not scored" if exhausted or known.last >= known.rounds else "stopped"


def head_of(known: Standing, begun: bool) -> dict[str, Any]:
    """Of a run as it stands at `known.now()`. Raises RunError for damaged files.

    began: when the process that plays began; elapsed and left: seconds; decides: the name of the
    metric by which the best round is the best; best: its number.
    """
    config, best, left = known.config, known.best, known.left()
    by_clients = config.evaluation.decide_by == "clients"
    return {
        "folder": visible(str(known.run.folder)),
        "resume": visible(f"flexlora resume {shlex.quote(str(known.run.folder))}"),
        "rule": visible(config.rule_name),
        "model": visible(config.model.name),
        "rounds": known.rounds,
        "last": known.last,
        "round": known.round,
        "drawn": known.drawn,
        "replied": all_visible(dict(sorted(known.replied.items()))),
        "failed": known.failed,
        "flight": known.in_flight,
        "elapsed": round(known.elapsed, 1) if begun else None,
        "left": None if left is None or known.last >= known.rounds else short(left),
        "patience": config.federation.patience > 0,
        "best": None if best is None else best.round,
        "decides": known.metric + (ON_CLIENTS if by_clients else ""),
        "scoring": state_words(known.scoring) if known.scoring else "",
    }


def but_time(head: Mapping[str, Any]) -> dict[str, Any]:
    """What of a head changes only where something happens."""
    return {key: value for key, value in head.items() if key not in _MOVING}
