"""How a run stands, and what happens in it, in words."""

from __future__ import annotations

from flexlora.runs.events import Allotted, Event, Failed, Halved, Noted, Repeated, Rested
from flexlora.runs.records import RoundRecord
from flexlora.runs.results import STATE_WORDS
from flexlora.runs.standing import Standing


def event_words(event: Event) -> str:
    """A sentence for an event that everybody is to see; "" for those that a view shows."""
    match event:
        case Failed(kind="stray"):
            return f"an answer of client {event.client} is refused: {event.reason}"
        case Failed():
            return f"client {event.client} left out: {event.reason}"
        case Repeated() | Rested():
            return event.words
        case Allotted(brought=True):  # Those of the config's own classes a view shows.
            return event.words
        case Noted():
            return event.text
        case Halved():
            return (
                f"out of memory in round {event.round}: {event.clients} clients train at once from "
                "here on; the same config no longer gives the same bits"
            )
    return ""


def clock(seconds: float) -> str:
    """ "0:07", "12:30", "3:05:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(standing: Standing) -> str:
    """ "about 0:12 left", "at most" where the run may stop before its last round; or ""."""
    left = standing.left()
    if left is None or standing.last >= standing.rounds:
        return ""
    word = "at most" if standing.config.federation.patience else "about"
    return f"{word} {clock(left)} left"


def state_words(state: str) -> str:
    """A scored state for people: as in `Row.state`."""
    return STATE_WORDS.get(state, f"clients of {state}")


def score_words(standing: Standing, record: RoundRecord) -> str:
    """The scores of a round: the server's, and the clients' where they decide; "" without any."""
    parts = [f"{name} {value:.3f}" for name, value in record.scores.items()]
    decisive = None if record.on_clients is None else record.on_clients.decisive
    parts += [] if decisive is None else [f"on clients {standing.metric} {decisive:.3f}"]
    return ", ".join(parts)


def best_words(standing: Standing, record: RoundRecord) -> str:
    """How a validated round stands to the best one."""
    if standing.best is None:
        return "no number, and none before it"
    if record is standing.best:
        better = "" if standing.gain is None else f", {standing.gain:.3f} better than before"
        return f"best so far{better}"
    behind = 0.0 if standing.gain is None else 0.0 - standing.gain  # No gain of 0 is "-0".
    return f"{behind:.3f} behind round {standing.best.round}, the best"
