"""A round's replies on disk, read tensor by tensor: what a reply takes in memory is its number."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from flexlora.errors import RunError
from flexlora.formats.atomic import atomic_file
from flexlora.formats.tensor_file import Stored, layout

Layout = Mapping[str, Stored]


class Spool:
    """Payloads in `folder`, one file each, under the numbers that they are given.

    Nothing here outlives a stop, so files are not synced. They are read, not mapped (see
    `TensorReader`), and open only while they are read: a process may hold fewer files open than a
    round has clients. Where the tensors lie is noted once for all payloads that are laid out alike.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._layouts: dict[bytes, Layout] = {}
        self._held: dict[int, Layout] = {}

    def put(self, number: int, payload: bytes) -> None:
        """Write a payload that `from_bytes` has read. Raises FlexLoRAError as `atomic_file`."""
        begin = 8 + int.from_bytes(payload[:8], "little")
        alike = hashlib.sha256(payload[:begin]).digest()
        if alike not in self._layouts:
            self._layouts[alike] = layout(payload[8:begin], begin)
        with atomic_file(self._path(number), synced=False) as aside:
            aside.write_bytes(payload)
        self._held[number] = self._layouts[alike]

    def tensors(self, number: int, names: Sequence[str]) -> list[Tensor]:
        """These tensors of a payload, in memory of their own."""
        held, found = self._held[number], []
        with open(self._path(number), "rb", buffering=0) as file:
            for name in names:
                tensor = held[name].read(file)
                if tensor is None:
                    raise RunError(f"{file.name} was cut short while in use; resume the run")
                found.append(tensor)
        return found

    def clear(self) -> None:
        """Remove all, also what another process left."""
        self._layouts.clear()
        self._held.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.safetensors"
