"""What all tests of the commands share."""

from __future__ import annotations

import sys

import pytest

from commands import Flexlora, caller
from lost_disk import Disk


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    """`flexlora …` in process."""
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="session")
def disk() -> Disk:
    made = Disk()
    sys.addaudithook(made)  # It stays for good, and does nothing where nobody asks it to.
    return made
