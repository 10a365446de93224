"""Messages of several chunks between real processes: exact, and no more bytes than told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from flexlora.federation.ground import Ground
from flexlora.federation.session import Session
from flexlora.flower.chunks import SIZE
from flexlora.flower.server_settings import ServerSettings
from flexlora.runs.events import Replied
from flexlora.runs.run_directory import Run
from flower.pipes import pipe
from flower.states import assert_same_state
from flower.test_loopback import DATA, NONE
from flower.trainers import client_tables, networked
from flower.wide import wide_model

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

from flower.processes import Loopback, processes

pytestmark = pytest.mark.soak

RANKS = (256, 1)
_WIRE_OVER_PAYLOADS = 1.02  # Above 10 MB.


def test_messages_of_several_chunks_end_at_the_bits_of_one_process(tmp_path: Path) -> None:
    """One client's adapter has more bytes than two chunks, down and up; the other's has few."""
    model = wide_model(tmp_path / "model", hidden=512, wide=1024, layers=4)
    both: dict[str, Any] = {"data": DATA, "model": {"name": str(model), "targets": ["all-linear"]}}
    names = sorted(Ground.of(networked(**both)).examples.train)
    config = networked(
        **both,
        clients={"ranks": dict(zip(names, RANKS, strict=True))},
        federation={"clients_per_round": 2, "rounds": 2},
        evaluation=NONE,
    )
    there = tmp_path / "there"
    with processes(tmp_path / "p") as made:
        network = Loopback.begin(made)
        direct = network.port
        with pipe(direct) as wire:
            for place, name in enumerate(names):
                tables = client_tables(name, tmp_path / f"c{place}")
                tables["data"] |= DATA
                tables["model"]["name"] = str(model)
                network.trainer(name, tables)
                key = network.register(name)
                network.port = wire.port
                network.node(name, tables, key)
                network.port = direct
            network.ready(names)
            before = wire.up + wire.down
            settings = ServerSettings(run=str(there), clients=2, wait=120.0, deadline=300.0)
            network.run("large", config, settings, seconds=500)
            carried = wire.up + wire.down - before
        assert there.is_dir(), network.told()
        messages = network.made.log(f"node-{names[0]}").count("Receiving: ")
    Session.of(config).play(tmp_path / "here")
    assert_same_state(there, tmp_path / "here")
    run = Run.open(there)
    records = run.records()
    sizes = [x.bytes_up for x in run.events(Replied) if x.client == names[0]]
    assert [record.failures for record in records] == [0, 0]
    assert min(sizes) > 2 * SIZE
    # It is asked who it is; then each chunk comes in a message, and is fetched by one.
    pieces = sum(-(-size // SIZE) for size in sizes)
    assert messages == 1 + 2 * pieces
    payloads = sum(record.bytes_down + record.bytes_up for record in records)
    assert payloads > 10e6
    assert 1.0 < carried / payloads < _WIRE_OVER_PAYLOADS
    print(f"bytes of payloads {payloads:,}, on the wire {carried / payloads:.4f} of that")
    print("seconds on the wire:", [record.wire_seconds for record in records])
