"""What clients remember from round to round, on the disk of the machine that they train on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.rules import Memory

_KEPT = 2  # Rounds of a client: the one that a repeated round begins from is among them.


class Memories:
    """Client id → named tensors, as its last round left them; processes may share the folder.

    A client's memory is kept by round, the two newest: a round that is played again, after a stop
    or a dead worker, begins from what stood before it. Folders are named by a digest: nothing that
    a client is called becomes a path. Nothing is written for a client that remembers nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before(self, client: str, round: int) -> dict[str, Tensor]:
        """What it remembers when it begins this round; what it left in it or later is forgotten.

        Raises AdapterError for a file that is damaged.
        """
        for later, path in self._kept(client).items():
            if later >= round:
                path.unlink(missing_ok=True)
        return self.after(client, round - 1)

    def after(self, client: str, round: int) -> dict[str, Tensor]:
        """What it remembers once this round is over; changes nothing."""
        rounds = [known for known in self._kept(client) if known <= round]
        if not rounds:
            return {}
        tensors, _ = load_tensors(self._kept(client)[max(rounds)])
        return {name: tensors[name] for name in tensors}

    def keep(self, client: str, round: int, memory: Memory) -> None:
        """Remember this from the round on, whole or not at all."""
        if not memory and not self._kept(client):
            return
        self._of(client).mkdir(parents=True, exist_ok=True)
        save_tensors(self._of(client) / f"{round:06d}.safetensors", dict(memory))
        for old in sorted(self._kept(client))[:-_KEPT]:
            self._kept(client)[old].unlink(missing_ok=True)

    def take_over(self, other: Path, round: int) -> None:
        """Copy what another run's clients remember of rounds up to this one."""
        for path in sorted(other.glob("*/*.safetensors")):
            if int(path.stem) <= round:
                (self.folder / path.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.folder / path.parent.name / path.name)

    def _of(self, client: str) -> Path:
        return self.folder / hashlib.sha256(client.encode()).hexdigest()[:32]

    def _kept(self, client: str) -> Mapping[int, Path]:
        return {int(path.stem): path for path in self._of(client).glob("*.safetensors")}
