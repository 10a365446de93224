"""What clients remember from round to round, on the disk of the machine that they train on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from flexlora.adapters import Payload
from flexlora.errors import AdapterError, RunError, seen
from flexlora.formats.atomic import atomic_write
from flexlora.formats.checked import check_of
from flexlora.formats.payloads import from_bytes, to_bytes
from flexlora.formats.refused import cure_of
from flexlora.rules import Memory

_NAME = re.compile(r"(?P<round>[0-9]{6,18})-(?P<check>[0-9a-f]{16})\.safetensors")
_CURE = "restore it, or start a new run"


class Memories:
    """Client id → named tensors, as its last round left them; processes may share the folder.

    <client>/<round>-<check>.safetensors, whole or not at all. A client's memory is kept by round:
    its newest, and what it had after the round before and after each round that may be gone back
    to. So a round that is played again, after a stop or a dead worker, and a run that is continued
    from its best round begin from what stood there. Which round's memory a client goes on with is
    said by who asks, who knows what it answered: so a file that is lost is missed. Folders are
    named by a digest: nothing that a client is called becomes a path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, client: str, answered: int | None) -> dict[str, Tensor]:
        """`read`, and all that it left in later rounds, which do not count, is forgotten."""
        found = self.read(client, answered)
        for path in self._kept(client):
            if _round(path) > (answered or 0):
                path.unlink(missing_ok=True)
        return found

    def read(self, client: str, answered: int | None) -> dict[str, Tensor]:
        """What it remembered after this round (None: it has answered in none).

        Raises RunError for a file that is missing, not as it was written, or of another client or
        round.
        """
        return {} if answered is None else dict(self._found(client, answered)[1].tensors)

    def keep(self, client: str, round: int, memory: Memory, kept: Collection[int] = ()) -> None:
        """Remember this from the round on, whole or not at all.

        kept: earlier rounds that may be gone back to.
        """
        self._write(client, round, to_bytes(Payload("memory", memory, self._meta(client, round))))
        files = self._kept(client)
        rounds = {_round(path) for path in files}
        needed = {_newest(rounds, until) for until in (*kept, round - 1, round)}
        for path in files:
            if _round(path) not in needed:
                path.unlink(missing_ok=True)

    def take_over(self, other: Memories, answered: Mapping[str, int]) -> None:
        """Copy what another run's clients remember of the round that each answered last.

        Raises RunError as `read` does.
        """
        for client, round in answered.items():
            self._write(client, round, other._found(client, round)[0])

    def _write(self, client: str, round: int, data: bytes) -> None:
        atomic_write(self._of(client) / f"{round:06d}-{check_of(data)}.safetensors", data)

    def _meta(self, client: str, round: int) -> dict[str, str]:
        return {"client": self._of(client).name, "round": str(round)}

    def _found(self, client: str, round: int) -> tuple[bytes, Payload]:
        """The file of that round, of which all is as it was written, and what it holds."""
        whose = f"what client {seen(client)} remembers of round {round}"
        paths = [path for path in self._kept(client) if _round(path) == round]
        if not paths:
            raise RunError(f"{whose} is missing in {self._of(client)}; {_CURE}")
        if len(paths) > 1:
            both = " and ".join(path.name for path in paths)
            raise RunError(
                f"{whose} is in {both} of {self._of(client)}; remove the one that is foreign"
            )
        (path,) = paths
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunError(
                f"{whose} cannot be read: {path} ({error.strerror}); {cure_of(error)}"
            ) from error
        if check_of(data) != _parts(path)["check"]:
            raise RunError(
                f"{whose} is damaged: {path} is not as it was written (its check is not that in "
                f"its name); {_CURE}"
            )
        try:
            payload = from_bytes(data)
        except AdapterError as error:
            raise RunError(f"{path} is not of what was written here; {_CURE}") from error
        if payload.schema != "memory" or payload.meta != self._meta(client, round):
            raise RunError(f"{whose} is foreign: {path} is of another client or round; {_CURE}")
        return data, payload

    def _of(self, client: str) -> Path:
        return self.folder / hashlib.sha256(client.encode()).hexdigest()[:32]

    def _kept(self, client: str) -> list[Path]:
        return [path for path in self._of(client).glob("*") if _NAME.fullmatch(path.name)]


def _parts(path: Path) -> Mapping[str, str]:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return found.groupdict()


def _round(path: Path) -> int:
    return int(_parts(path)["round"])


def _newest(rounds: Collection[int], until: int) -> int | None:
    return max((round for round in rounds if round <= until), default=None)
