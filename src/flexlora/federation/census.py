"""Who holds what: the clients of a federation, the sizes of their parts and their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flexlora.config.config import PartitionConfig
from flexlora.tasks.clients import Client
from flexlora.tasks.partition import count_labels
from flexlora.tasks.table_source import KEPT


@dataclass(frozen=True)
class Holding:
    """One client's examples as they were dealt, also those that are later left out as too long.

    type: its client type, "" for one that does not train; labels: label → examples of all parts.
    """

    id: str
    type: str
    train: int
    validation: int
    test: int
    labels: Mapping[str, int]

    @property
    def examples(self) -> int:
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Census:
    """clients: those that train; validators: kept out of training to validate on; unseen: the
    groups of examples that the server keeps apart, which may be rows of clients that train.

    Every example is counted once, but for those that are not scored since they are trained on, too;
    without evaluation.unseen there are no unseen ones.
    """

    by: str
    label: str
    clients: tuple[Holding, ...]
    validators: tuple[Holding, ...]
    unseen: tuple[Holding, ...]

    @staticmethod
    def of(
        partition: PartitionConfig,
        clients: Sequence[Client],
        validators: Sequence[Client],
        unseen: Sequence[Client],
    ) -> Census:
        """Count; of which type anybody is, `typed` says."""

        def count(client: Client) -> Holding:
            held = client.train + client.validation + client.test
            return Holding(
                id=client.id,
                type="",
                train=len(client.train),
                validation=len(client.validation),
                test=len(client.test),
                labels=count_labels(partition.label, held),
            )

        return Census(
            by=partition.by,
            label=partition.label,
            clients=tuple(map(count, clients)),
            validators=tuple(map(count, validators)),
            unseen=tuple(map(count, unseen)),
        )

    def typed(self, types: Mapping[str, str]) -> Census:
        """With these types (client → type). Clients that have none (all their examples were too
        long) keep "" as theirs."""
        clients = tuple(replace(x, type=types.get(x.id, "")) for x in self.clients)
        return replace(self, clients=clients)

    def labels(self) -> dict[str, int]:
        """Label → examples of all clients that train, the most frequent first."""
        total: dict[str, int] = {}
        for holding in self.clients:
            for label, count in holding.labels.items():
                total[label] = total.get(label, 0) + count
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def skew(self) -> float:
        """How far clients' label mixes are from that of all: 0 (the same) to below 1.

        The mean over clients, by examples, of the total variation distance: the share of a
        client's examples that would need another label for its mix to be that of all.
        """
        whole = self.labels()
        total = sum(whole.values())
        apart = 0.0
        for holding in self.clients:
            differences = (
                abs(holding.labels.get(label, 0) - holding.examples * count / total)
                for label, count in whole.items()
            )
            apart += sum(differences) / 2
        return apart / total

    @property
    def known(self) -> int:
        """How many of the unseen are rows of a client that trains (on other rows)."""
        training = {holding.id for holding in self.clients}
        return sum(holding.id.removeprefix(KEPT) in training for holding in self.unseen)

    def to_json(self) -> dict[str, Any]:
        """Plain values for data.json: by, label, skew, clients, validators, unseen,
        known."""

        def tested(holdings: Sequence[Holding]) -> list[dict[str, Any]]:
            return [{"id": h.id, "test": h.test, "labels": dict(h.labels)} for h in holdings]

        return {
            "by": self.by,
            "label": self.label,
            "skew": self.skew(),
            "clients": [asdict(holding) for holding in self.clients],
            "validators": tested(self.validators),
            "unseen": tested(self.unseen),
            "known": self.known,
        }
