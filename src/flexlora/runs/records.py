"""What is kept of a round: one line of metrics.jsonl, typed.

JSON has no NaN: such a number is null there, and NaN again here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flexlora.evaluation import MeanScore
from flexlora.formats.json_fields import counts, items, number, numbers, table, text, texts
from flexlora.runs.fields import natural, truth
from flexlora.screens import Verdict

SCORING = ("validate", "evaluate_on_clients", "spectra")  # Phases of `seconds` that score.


@dataclass(frozen=True)
class Spread:
    """One metric over clients: its mean, that over the worst tenth, the standard deviation."""

    mean: float
    worst: float
    spread: float


@dataclass(frozen=True)
class ClientScores:
    """What so many clients scored of one kind of adapter, on their held-out examples."""

    clients: int
    examples: int
    metrics: Mapping[str, Spread]

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> ClientScores:
        """Raises ValueError, as all here do, naming the entry that is missing or wrong."""
        metrics = table(record, "metrics")
        return ClientScores(
            clients=natural(record, "clients"),
            examples=natural(record, "examples"),
            metrics={name: _spread(table(metrics, name)) for name in metrics},
        )


@dataclass(frozen=True)
class OnClients:
    """The clients' own scores of a round.

    shared: of the global adapter, each at its own rank ("global" in JSON); tuned: of what they
    fine-tuned, where that is scored; failures: clients that gave no score; bytes_down: what they
    were sent for it; decisive: where they decide, what their scores of the global adapter come to
    by the metric that decides (`federation.levels`; None: no client gave any).
    """

    shared: ClientScores
    tuned: ClientScores | None
    failures: int
    bytes_down: int
    decisive: float | None = None

    @property
    def by_kind(self) -> dict[str, ClientScores]:
        """ "global" and, where it is scored, "tuned"."""
        return {"global": self.shared} | ({} if self.tuned is None else {"tuned": self.tuned})

    def to_json(self) -> dict[str, Any]:
        kinds = {name: asdict(scores) for name, scores in self.by_kind.items()}
        found = kinds | {"failures": self.failures, "bytes_down": self.bytes_down}
        return found if self.decisive is None else found | {"decisive": self.decisive}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> OnClients:
        return OnClients(
            shared=ClientScores.from_json(table(record, "global")),
            tuned=ClientScores.from_json(table(record, "tuned")) if "tuned" in record else None,
            failures=natural(record, "failures"),
            bytes_down=natural(record, "bytes_down"),
            decisive=number(record, "decisive") if "decisive" in record else None,
        )


@dataclass(frozen=True)
class Cut:
    """‖what was cut off the sum‖_F over all layers, and how many certificates of each kind."""

    error: float
    certificates: Mapping[str, int]

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Cut:
        return Cut(number(record, "error"), counts(record, "certificates"))


@dataclass(frozen=True)
class LeftOut:
    """What the client that was sent least was not sent of all that was learned: its share of the
    energy, and its norm ‖·‖_F over all layers."""

    share: float
    error: float

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> LeftOut:
        return LeftOut(number(record, "share"), number(record, "error"))


@dataclass(frozen=True)
class Simulated:
    """How long a round would have taken on the clients' devices, by their profiles.

    seconds: of the round, which lasts until the last one has answered, where anybody is late, to
    the deadline, or, where more were asked than are needed, until enough have answered; slowest:
    whose answer would come last, its device, and after how long; late: those who were asked and
    would miss the deadline.
    """

    seconds: float
    slowest: str
    device: str
    slowest_seconds: float
    late: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "late": list(self.late)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Simulated:
        return Simulated(
            seconds=number(record, "seconds"),
            slowest=text(record, "slowest"),
            device=text(record, "device"),
            slowest_seconds=number(record, "slowest_seconds"),
            late=texts(record, "late"),
        )


@dataclass(frozen=True)
class RoundRecord:
    """A round that was played.

    clients: those whose replies counted, by id; types: how many of them of each type; failures:
    those drawn to train that did not count; train_loss: their mean, by examples; tokens: non-pad
    tokens seen; bytes: of training, as serialised; seconds: by phase;
    cut: where the rule cuts something off; validation: the server's scores, on_clients: the
    clients', in rounds that have them; screened: whom the screens shrank, weighed less or left out,
    where there are screens that judge; agreement: mean cosine between what pairs of clients
    changed, where it is asked for; sparse: a round of the stage before adapters are trained.
    missing: by attempt at the round, who was asked and did not count; the last attempt is the one
    that was combined, and failures and bytes are of all. spare: whose answers were needed no more;
    resting: who was not asked, since it had failed again and again. simulated: its time on the
    clients' devices, where they have any; left_out: where ranks follow from an error. back: of
    those that counted, who had been gone since they answered last; wire_seconds: of them, the most
    that a job and its answer took beside the training (None: nothing travelled). peak_bytes: of
    them, the most by which training raised memory beside the base model, as where they trained it
    was measured (None: nowhere).
    """

    round: int
    learning_rate: float
    clients: tuple[str, ...]
    types: Mapping[str, int]
    failures: int
    train_loss: float
    examples: int
    tokens: int
    bytes_down: int
    bytes_up: int
    seconds: Mapping[str, float]
    cut: Cut | None = None
    validation: MeanScore | None = None
    on_clients: OnClients | None = None
    screened: Mapping[str, Verdict] | None = None
    agreement: float | None = None
    sparse: bool = False
    missing: tuple[tuple[str, ...], ...] = ()
    spare: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    simulated: Simulated | None = None
    left_out: LeftOut | None = None
    back: tuple[str, ...] = ()
    wire_seconds: float | None = None
    peak_bytes: int | None = None

    @property
    def attempts(self) -> int:
        return max(1, len(self.missing))

    @property
    def validated(self) -> bool:
        return self.validation is not None or self.on_clients is not None

    @property
    def scores(self) -> dict[str, float]:
        """The server's validation, as far as it is finite; empty without."""
        values = {} if self.validation is None else self.validation.values
        return {name: value for name, value in values.items() if math.isfinite(value)}

    @property
    def total_bytes_down(self) -> int:
        """What clients were sent to train, and to evaluate."""
        return self.bytes_down + (0 if self.on_clients is None else self.on_clients.bytes_down)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def seconds_of(self, *, scoring: bool) -> float:
        """Of the phases that score, or of the others."""
        return sum(s for phase, s in self.seconds.items() if (phase in SCORING) == scoring)

    def to_json(self) -> dict[str, Any]:
        """What has no value is left out."""
        found: dict[str, Any] = {
            "round": self.round,
            "learning_rate": self.learning_rate,
            "clients": list(self.clients),
            "types": dict(self.types),
            "failures": self.failures,
            "train_loss": self.train_loss,
            "examples": self.examples,
            "tokens": self.tokens,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }
        if self.sparse:
            found["sparse"] = True
        if self.missing:
            found["missing"] = [list(clients) for clients in self.missing]
        for name in ("spare", "resting", "back"):
            if clients := getattr(self, name):
                found[name] = list(clients)
        if self.simulated is not None:
            found["simulated"] = self.simulated.to_json()
        if self.left_out is not None:
            found["left_out"] = asdict(self.left_out)
        if self.wire_seconds is not None:
            found["wire_seconds"] = self.wire_seconds
        if self.peak_bytes is not None:
            found["peak_bytes"] = self.peak_bytes
        if self.cut is not None:
            found["cut"] = asdict(self.cut)
        if self.screened is not None:
            found["screened"] = {client: x.to_json() for client, x in self.screened.items()}
        if self.agreement is not None:
            found["agreement"] = self.agreement
        if self.validation is not None:
            found["validation"] = self.validation.to_json()
        if self.on_clients is not None:
            found["on_clients"] = self.on_clients.to_json()
        return found | {"seconds": dict(self.seconds)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RoundRecord:
        """What `to_json` gave, or a line of metrics.jsonl."""
        return RoundRecord(
            round=natural(record, "round"),
            learning_rate=number(record, "learning_rate"),
            clients=texts(record, "clients"),
            types=counts(record, "types"),
            failures=natural(record, "failures"),
            train_loss=number(record, "train_loss"),
            examples=natural(record, "examples"),
            tokens=natural(record, "tokens"),
            bytes_down=natural(record, "bytes_down"),
            bytes_up=natural(record, "bytes_up"),
            seconds=numbers(record, "seconds"),
            cut=Cut.from_json(table(record, "cut")) if "cut" in record else None,
            sparse=truth(record, "sparse") if "sparse" in record else False,
            missing=_missing(record) if "missing" in record else (),
            spare=texts(record, "spare") if "spare" in record else (),
            resting=texts(record, "resting") if "resting" in record else (),
            simulated=(
                Simulated.from_json(table(record, "simulated")) if "simulated" in record else None
            ),
            left_out=(
                LeftOut.from_json(table(record, "left_out")) if "left_out" in record else None
            ),
            back=texts(record, "back") if "back" in record else (),
            wire_seconds=number(record, "wire_seconds") if "wire_seconds" in record else None,
            peak_bytes=natural(record, "peak_bytes") if "peak_bytes" in record else None,
            screened=_screened(table(record, "screened")) if "screened" in record else None,
            agreement=number(record, "agreement") if "agreement" in record else None,
            validation=(
                MeanScore.from_json(table(record, "validation")) if "validation" in record else None
            ),
            on_clients=(
                OnClients.from_json(table(record, "on_clients")) if "on_clients" in record else None
            ),
        )


def _missing(record: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(texts({"missing": clients}, "missing") for clients in items(record, "missing"))


def _screened(record: Mapping[str, Any]) -> dict[str, Verdict]:
    def verdict(told: Mapping[str, Any]) -> Verdict:
        reason = text(told, "reason") if "reason" in told else ""
        return Verdict(number(told, "weight"), number(told, "shrink"), reason)

    return {client: verdict(table(record, client)) for client in record}


def _spread(record: Mapping[str, Any]) -> Spread:
    return Spread(*(number(record, name) for name in ("mean", "worst", "spread")))
