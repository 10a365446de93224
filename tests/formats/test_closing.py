"""What holds a file open lets go of it at the end of its block, however that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexlora.adapters import Payload
from flexlora.formats.closing import Closing
from flexlora.formats.payloads import PayloadReader, to_bytes
from flexlora.formats.peft_reader import PeftReader
from flexlora.formats.tensor_file import TensorReader
from peft_folders import pair, write_folder


@pytest.mark.parametrize("kind", [PayloadReader, PeftReader, TensorReader])
def test_it_is_closed_when_its_block_ends_or_fails(
    tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "a", pair("x", 3, 2, 1), r=1)
    payload = tmp_path / "p.safetensors"
    payload.write_bytes(to_bytes(Payload("tensors", {})))
    path = {
        PayloadReader: payload,
        PeftReader: folder,
        TensorReader: folder / "adapter_model.safetensors",
    }[kind]
    closed: list[Any] = []
    close = kind.close

    def noted(self: Any) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(kind, "close", noted)
    with kind(path) as reader:
        assert isinstance(reader, kind)
        assert isinstance(reader, Closing)
        assert closed == []
    assert closed == [reader]
    with pytest.raises(LookupError), kind(path) as other:
        raise LookupError
    assert closed == [reader, other]
