"""Payloads and checkpoints as safetensors: deterministic bytes, no pickle, read layer by layer.

The same payload always gives the same bytes: tensors are laid out by the format's own fixed order
(widest dtype first, then name), and all text sits as one sorted JSON under one metadata key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from torch import Tensor

from flexlora.adapters import FORMAT_VERSION, Payload
from flexlora.errors import AdapterError, cut_short
from flexlora.formats.atomic import atomic_file
from flexlora.formats.closing import Closing
from flexlora.formats.tensor_file import NAMES, TensorFile, require_dtype

_KEY = "flexlora"
_PLACES = {dtype: place for place, dtype in enumerate(NAMES)}
_BROKEN = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)


def to_bytes(payload: Payload) -> bytes:
    """The payload as it travels; its length is what the report counts as bytes on the wire."""
    head = {"schema": payload.schema, "version": payload.version, "meta": dict(payload.meta)}
    return _pack(payload.tensors, head)


def byte_count(payload: Payload) -> int:
    """The length of `to_bytes`, from shapes alone: tensors may lie on no device ("meta")."""
    head = {"schema": payload.schema, "version": payload.version, "meta": dict(payload.meta)}
    header, order = _header(payload.tensors, head)
    return len(header) + sum(payload.tensors[name].nbytes for name in order)


def from_bytes(data: bytes, *, limit_bytes: int | None = None) -> Payload:
    """Read a payload back, bit for bit, from bytes that need not be trusted.

    limit_bytes: the most that a stranger may send; None where whoever sends is no stranger.
    Raises AdapterError for more than that (before anything is parsed), for bytes that are
    truncated, foreign or pickled, and for a newer format version.
    """
    if limit_bytes is not None and len(data) > limit_bytes:
        raise AdapterError(
            f"payload is {len(data)} bytes, above the limit of {limit_bytes}; "
            "send fewer layers or lower ranks, or raise the limit"
        )
    try:
        tensors = load_bytes(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    except (*_BROKEN, RecursionError) as error:
        raise _foreign("payload", error) from error
    schema, version, meta = _head(metadata, "payload")
    return Payload(schema, tensors, meta, version)


def meta_of(data: bytes) -> dict[str, str]:
    """The small text of a payload, without its tensors. Raises AdapterError as `from_bytes`."""
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
    except (*_BROKEN, RecursionError) as error:
        raise _foreign("payload", error) from error
    return _head(metadata, "payload")[2]


@final
class PayloadReader(Closing):
    """A payload on disk, read one tensor at a time. Use as a context manager, or `close()` it.

    `names` are the tensors in name order; `schema`, `version` and `meta` are read at once. Only
    what `tensor` is asked for is brought into memory.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: Any = None
        if not self.path.is_file():
            raise AdapterError(f"payload file {path} is missing; check the path")
        try:
            self._file = safe_open(str(path), framework="pt")
            metadata = self._file.metadata()
            self.names: tuple[str, ...] = tuple(sorted(self._file.keys()))
        except (*_BROKEN, OSError) as error:
            raise _foreign(f"payload file {path}", error) from error
        try:
            self.schema, self.version, self.meta = _head(metadata, f"payload file {path}")
        except AdapterError:
            self.close()
            raise

    def tensor(self, name: str) -> Tensor:
        """This tensor, copied out of the file. Raises AdapterError for one that is not there."""
        if name not in self.names:
            raise AdapterError(f"payload file {self.path} holds no tensor '{name}'")
        try:
            return torch.clone(self._file.get_tensor(name))
        except _BROKEN as error:
            if self._can_read(name):
                # Ctrl-C came while torch looked at the file's memory, and became a ValueError.
                raise KeyboardInterrupt from error
            raise _foreign(f"payload file {self.path}", error) from error

    def _can_read(self, name: str) -> bool:
        try:
            self._file.get_tensor(name)
        except _BROKEN:
            return False
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.__exit__(None, None, None)
            self._file = None


def open_payload(path: Path | str) -> PayloadReader:
    """Open a payload that `to_bytes` wrote. Raises AdapterError as `from_bytes` does."""
    return PayloadReader(path)


def save_tensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, str] | None = None,
    *,
    synced: bool = True,
) -> None:
    """Write named tensors of any dtype and small text to one file, whole or not at all.

    Tensors are fetched and written one by one, in name order. synced: False for a file that is
    made again after a loss of power.
    """
    head = {"schema": "tensors", "version": FORMAT_VERSION, "meta": dict(meta or {})}
    names = sorted(tensors)
    with (
        atomic_file(path, synced=synced) as aside,
        TensorFile(aside, names, {_KEY: _head_text(head)}) as file,
    ):
        for name in names:
            file.add(name, tensors[name])


def load_tensors(path: Path | str) -> tuple[Tensors, dict[str, str]]:
    """What `save_tensors` wrote, bit for bit, each tensor read whenever it is asked for.

    Raises AdapterError as `open_payload` does.
    """
    file = open_payload(path)
    return Tensors({name: partial(file.tensor, name) for name in file.names}), dict(file.meta)


@final
class Tensors(Mapping[str, Tensor]):
    """Named tensors, each fetched when it is asked for: a model's state need not fit in memory."""

    def __init__(self, fetch: Mapping[str, Callable[[], Tensor]]) -> None:
        self._fetch = dict(fetch)

    def __getitem__(self, name: str) -> Tensor:
        return self._fetch[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._fetch

    def __iter__(self) -> Iterator[str]:
        return iter(self._fetch)

    def __len__(self) -> int:
        return len(self._fetch)


def _pack(tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> bytes:
    """What `safetensors.torch.save` gives, in less than half its time: every reply is packed.

    Raises AdapterError for a dtype that is none of `NAMES`.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header, order = _header(plain, head)
    parts: list[Any] = [plain[name].reshape(-1).view(torch.uint8).numpy() for name in order]
    return b"".join([header, *parts])


def _header(tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """What comes before the numbers, its own length first, and the names in the order of these."""
    for name, tensor in tensors.items():
        require_dtype(name, tensor)
    header: dict[str, Any] = {"__metadata__": {_KEY: _head_text(head)}}
    order = sorted(tensors, key=lambda name: (_PLACES[tensors[name].dtype], name))
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": tuple(tensor.shape),
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _head_text(head: Mapping[str, Any]) -> str:
    return json.dumps(head, sort_keys=True, separators=(",", ":"))


def _head(metadata: object, thing: str) -> tuple[str, int, dict[str, str]]:
    """Schema, version and meta out of the file's metadata, every type checked."""
    try:
        head = json.loads(metadata[_KEY])  # type: ignore[index]
        schema, version, meta = head["schema"], head["version"], head["meta"]
    except (*_BROKEN, RecursionError) as error:
        raise _foreign(thing, error) from error
    texts = isinstance(meta, dict) and all(isinstance(text, str) for text in meta.values())
    if not isinstance(schema, str) or type(version) is not int or not texts:
        raise _foreign(thing, None)
    if not 1 <= version <= FORMAT_VERSION:
        raise AdapterError(
            f"{thing} has format version {version}, this FlexLoRA reads up to {FORMAT_VERSION}; "
            "update FlexLoRA"
        )
    return schema, version, meta


def _foreign(thing: str, error: BaseException | None) -> AdapterError:
    own = isinstance(error, SafetensorError)
    reason = cut_short(str(error).split("\n")[0], 80) if own else "foreign"
    return AdapterError(
        f"{thing} is truncated or was not written by FlexLoRA ({reason}); write it again"
    )
