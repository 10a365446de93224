"""Which client has which device: by name, as known, and drawn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flexlora.allocation.deal import deal
from flexlora.allocation.devices import Device, DeviceClass
from flexlora.errors import ConfigError
from flexlora.seeds import seeded

DEVICE = Device(1e9, {"float32": 1e9}, 1e9, 1e6, 1e6)
CLIENTS = [f"c{i:02d}" for i in range(12)]


def kind(name: str, clients: int | tuple[str, ...] = 1) -> DeviceClass:
    named = clients if isinstance(clients, tuple) else ()
    return DeviceClass(name, DEVICE, len(named) or clients, named)  # type: ignore[arg-type]


def test_counts_are_proportions_and_names_are_kept() -> None:
    classes = [kind("phone", 2), kind("laptop", 1), kind("server", ("c03", "c07", "c11"))]
    found = deal(classes, CLIENTS, seeded(0))
    assert list(found) == CLIENTS
    assert Counter(found.values()) == {"phone": 6, "laptop": 3, "server": 3}
    assert {c for c, its in found.items() if its == "server"} == {"c03", "c07", "c11"}
    assert deal(classes, CLIENTS[::-1], seeded(0)) == found
    assert deal(classes, CLIENTS, seeded(1)) != found


def test_whoever_has_a_device_keeps_it_unless_a_class_names_it() -> None:
    known = {"c00": "laptop", "c01": "laptop", "c02": "gone", "c03": "phone"}
    found = deal(
        [kind("phone", 5), kind("laptop", 1), kind("server", ("c01",))], CLIENTS, seeded(0), known
    )
    assert (found["c00"], found["c01"], found["c03"]) == ("laptop", "server", "phone")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([kind("a", ("c00",)), kind("b", ("c00",))], "client 'c00' is named in a and in b"),
        ([kind("a", ("c0",)), kind("b")], r"client 'c0' of a is not in the data; did you mean"),
        ([kind("a", ("c00",))], r"client 'c01' has no device: .* none names it \(11 such\); name"),
    ],
)
def test_who_has_no_device_or_two(classes: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        deal(classes, CLIENTS, seeded(0))
