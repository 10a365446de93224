"""The examples are registered while a test of this folder runs, and nowhere else."""

from __future__ import annotations

import pytest

from flexlora.federation import Setup, prepare
from flexlora.rules import RULES
from flexlora.screens import SCREENS
from seam.examples import EXAMPLES, SCREEN_EXAMPLES
from small import small


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    for rule in EXAMPLES:
        monkeypatch.setitem(RULES, rule.name, rule)
    for screen in SCREEN_EXAMPLES:
        monkeypatch.setitem(SCREENS, screen.name, screen)


@pytest.fixture(scope="package")
def setup() -> Setup:
    return prepare(small())
