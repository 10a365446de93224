"""The devices of a run, and why their clients train at their ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexlora.cli.console import say
from flexlora.formats.words import count


def say_devices(devices: Mapping[str, Mapping[str, Any]]) -> None:
    """A line a class: class → clients, and why (see `Fleet.describe`)."""
    for name, told in devices.items():
        if told["clients"]:
            why = told["why"] or "ranks of their own, by name or in the data"
            say(f"device {name}: {count(len(told['clients']), 'client')}, rank by {why}")
