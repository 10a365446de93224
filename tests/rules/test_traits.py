"""Traits that contradict each other are refused where they are declared."""

from __future__ import annotations

from typing import Any

import pytest

from flexlora.errors import RuleError
from flexlora.rules.traits import Traits


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"delta": "origin", "memory": True}, "delta='origin' and memory=True"),
        ({"sends": "nothing", "memory": True}, "declare learned='clients'"),
        ({"learned": "clients"}, "learned='clients' and memory=False"),
    ],
)
def test_what_contradicts_itself_is_refused(declared: dict[str, Any], told: str) -> None:
    with pytest.raises(RuleError, match=told):
        Traits(**declared)


def test_what_stays_with_the_clients_is_kept_by_them() -> None:
    assert Traits(learned="clients", memory=True).learned == "clients"
    assert Traits(sends="nothing", memory=True, learned="clients").alone
