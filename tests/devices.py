"""A small federation on devices: its file, and its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from small import SMALL

CLIENTS = (
    "arithmetic.one_more",
    "list_filter.no_repeats",
    "lookup.price_of",
    "rewriting.to_plural",
)
# Slow and small beside strong: the former afford a part of what the latter do.
DEVICES = """
[phones]
clients = 3
memory = "14.9 MB"
flops = {float32 = "20 GFLOPS"}
bandwidth = "2 GB/s"
uplink = "2 Mbit/s"
downlink = "8 Mbit/s"
availability = "50%"
[clinics]
device = "T4"
"""


def device_file(folder: Path, text: str = DEVICES) -> Path:
    path = folder / "devices.toml"
    path.write_text(text)
    return path


def on_devices(path: Path, /, **tables: Mapping[str, Any]) -> Config:
    """The small config with devices for clients, and these keys on top."""
    given = {**SMALL, "clients": {"devices": str(path), "max_rank": 16}}
    given["federation"] = {**SMALL["federation"], "clients_per_round": 4}
    names = {**given, **tables}
    return parse_config({x: {**given.get(x, {}), **tables.get(x, {})} for x in names})
