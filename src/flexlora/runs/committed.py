"""What outlives a round, as a checkpoint keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from flexlora.formats.json_fields import table
from flexlora.rules import State
from flexlora.runs.packed_state import pack, unpack
from flexlora.runs.progress import Progress
from flexlora.runs.run_directory import Checkpoint, Run
from flexlora.runs.store import ClientStore


@dataclass(frozen=True, eq=False)
class Committed:
    """A federation between two rounds: going on from here needs nothing else."""

    state: State
    store: ClientStore
    progress: Progress

    def checkpoint(self) -> Checkpoint:
        """As `Run.write_checkpoint` takes it; tensors are fetched as they are written."""
        tensors, meta = pack(self.state)
        progress, store = self.progress.to_json(), self.store.to_json()
        return tensors, {"state": meta, "store": store, "progress": progress}

    @staticmethod
    def of(run: Run, checkpoint: Checkpoint) -> Committed:
        """One of this run's checkpoints. Raises RunError for a damaged one."""
        tensors, meta = checkpoint
        with run.undamaged("checkpoints"):
            return Committed(
                unpack(tensors, table(meta, "state")),
                ClientStore.from_json(table(meta, "store")),
                Progress.from_json(table(meta, "progress")),
            )
