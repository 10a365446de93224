"""Bytes that a computation would hold, found without holding them: on tensors that have no data."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_NO_WORK = ("prim", "profiler")  # Questions, and marks.
_AS_HOPED = {torch.ops.aten.equal.default: True}


@contextmanager
def without_data() -> Iterator[None]:
    """While the block runs, tensors have shapes, dtypes and views, and no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all tensors that are made and not yet let go of, while it is active inside
    `without_data`.

    known: tensors that are there already, and are not counted. What a computation asks of numbers
    is answered as a trial hopes: what is compared is equal, a truth is true, a whole number is 0,
    any other 1. live: bytes now; highest: at most so far. calls: operations that computed, views of
    what is there not among them; moved: bytes that those read and wrote; attended: how many of them
    were torch's attention, there and back.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.highest = 0
        self.calls = 0
        self.moved = 0
        self.attended = [0, 0]
        self._kept_alive = [x.untyped_storage() for x in known]
        self._seen = {x._cdata for x in self._kept_alive}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in _NO_WORK:
            return func(*args, **(kwargs or {}))
        if func in _AS_HOPED:
            return _AS_HOPED[func]
        if func is torch.ops.aten._local_scalar_dense.default:
            return _hoped(args[0])
        out = func(*args, **(kwargs or {}))
        made = [*_tensors((out,))]
        for x in made:
            self._count(x.untyped_storage())
        self.highest = max(self.highest, self.live)
        given = [*_tensors(args), *_tensors(kwargs.values() if kwargs else ())]
        if not _is_view(func, given, made):
            self.calls += 1
            self.moved += sum(x.nbytes for x in (*given, *(made or given)))
            if "attention" in (name := func._schema.name):
                self.attended["backward" in name] += 1
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key: int = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Of what an operation is given or makes: tensors, and lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _is_view(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether all that was made lies in what was given, and nothing was written there."""
    if func._schema.is_mutable:
        return False
    there = {x.untyped_storage()._cdata for x in given}
    return bool(made) and all(x.untyped_storage()._cdata in there for x in made)


def _hoped(x: Tensor) -> bool | int | float:
    if x.dtype == torch.bool:
        return True
    return 1.0 if x.dtype.is_floating_point else 0
