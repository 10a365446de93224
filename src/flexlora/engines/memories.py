"""What clients remember from round to round, on the disk of the machine that they train on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.rules import Memory


class Memories:
    """Client id → named tensors, as its last round left them; processes may share the folder.

    A client's memory is kept by round: its newest, and what it had after the round before and after
    each round that may be gone back to. So a round that is played again, after a stop or a dead
    worker, and a run that is continued from its best round begin from what stood there. Folders are
    named by a digest: nothing that a client is called becomes a path. Nothing is written for a
    client that remembers nothing.
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
        files = self._kept(client)
        newest = _newest(files, round)
        if newest is None:
            return {}
        tensors, _ = load_tensors(files[newest])
        return {name: tensors[name] for name in tensors}

    def keep(self, client: str, round: int, memory: Memory, kept: Collection[int] = ()) -> None:
        """Remember this from the round on, whole or not at all.

        kept: earlier rounds that may be gone back to.
        """
        if not memory and not self._kept(client):
            return
        self._of(client).mkdir(parents=True, exist_ok=True)
        save_tensors(self._of(client) / f"{round:06d}.safetensors", dict(memory))
        files = self._kept(client)
        needed = {_newest(files, until) for until in (*kept, round - 1, round)}
        for old in files.keys() - needed:
            files[old].unlink(missing_ok=True)

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


def _newest(rounds: Collection[int], until: int) -> int | None:
    return max((round for round in rounds if round <= until), default=None)
