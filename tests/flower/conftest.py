"""What tests of the network's commands share."""

from __future__ import annotations

import pytest

from commands import Flexlora, caller


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    """`flexlora …` in process."""
    return caller(monkeypatch, capsys)
