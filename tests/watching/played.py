"""Runs that go on by hand, through the real writers: no model plays them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexlora.evaluation import MeanScore
from flexlora.runs.events import (
    Ended,
    Failed,
    Replied,
    RoundBegun,
    RoundEnded,
    Scoring,
    Started,
)
from flexlora.runs.means import Means
from flexlora.runs.records import RoundRecord
from flexlora.runs.run_directory import Run
from small import small

KINDS = ("laptop", "phone", "server")


class Played:
    """One run. clients: how many there are, all of which train in every round."""

    def __init__(self, folder: Path, *, clients: int = 6, rounds: int = 5, seed: int = 0) -> None:
        config = small(federation={"rounds": rounds, "clients_per_round": clients, "seed": seed})
        self.clients = [f"client-{i:04d}" for i in range(clients)]
        self.rounds, self.seed = rounds, seed
        counts = dict(Counter(self.kind(name) for name in self.clients))
        resolved = {"metric": "loss", "higher_is_better": {"loss": False}, "clients": counts}
        self.run = Run.create(config, folder, resolved=resolved, data={"source": "made up"})

    def kind(self, client: str) -> str:
        return KINDS[int(client[-4:]) % 3]

    def start(self, round: int = 0) -> None:
        counts = Counter(map(self.kind, self.clients))
        told = (str(self.run.folder), "flexlora", "tiny", self.rounds, round, dict(counts), ())
        self.run.append_event(Started(*told))

    def begin(self, round: int) -> None:
        self.run.append_event(RoundBegun(round, tuple(self.clients)))

    def reply(self, round: int, clients: Sequence[str]) -> None:
        for name in clients:
            values = (4, 90, self.loss(round) + int(name[-4:]) % 7 / 50, 1.5, 1000)
            self.run.append_event(Replied(round, name, self.kind(name), *values))

    def fail(self, round: int, client: str, reason: str = "out of memory") -> None:
        self.run.append_event(Failed(round, client, reason))

    def end(self, round: int, failed: Sequence[str] = ()) -> None:
        """Commit it as the loop does: its line, its checkpoint, its event."""
        loss = self.loss(round)
        clients = tuple(name for name in self.clients if name not in failed)
        every = max(1, self.rounds // 40)
        record = RoundRecord(
            round=round,
            learning_rate=1e-3,
            clients=clients,
            types=dict(Counter(map(self.kind, clients))),
            failures=len(failed),
            train_loss=loss,
            examples=4 * len(clients),
            tokens=90 * len(clients),
            bytes_down=40_000 * len(clients),
            bytes_up=39_000 * len(clients),
            seconds={"clients": 8.0, "combine": 0.6, "validate": 0.4},
            validation=MeanScore(2, 9, {"loss": loss + 0.2}) if round % every == 0 else None,
        )
        self.run.append_metrics(record)
        self.run.write_checkpoint(round, {}, {})
        self.run.append_event(RoundEnded(record))

    def whole_round(self, round: int) -> None:
        self.begin(round)
        self.reply(round, self.clients)
        self.end(round)

    def finish(self) -> None:
        self.run.append_event(Scoring("full"))
        mean = MeanScore(2, 9, {"loss": 1.5})
        values: Any = (self.rounds, self.rounds, 5, 6, 1.25, (Means("full", "8", mean, None),))
        self.run.append_event(Ended(str(self.run.folder), "flexlora", *values))

    def loss(self, round: int) -> float:
        wave = math.sin(round * 1.7 + self.seed) / 30
        return 1.2 + 2.6 * math.exp(-2.5 * round / self.rounds) + wave + self.seed / 20
