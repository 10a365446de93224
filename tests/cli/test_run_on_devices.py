"""Devices at the command line: what a dry run foresees, a run plays, and inspect finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from devices import CLIENTS, DEVICES, device_file, on_devices
from flexlora.report.blocks import Note, Table
from flexlora.report.devices import devices
from flexlora.report.read import read_runs
from flexlora.report.rounds import costs
from flexlora.runs.events import Replied
from flexlora.runs.run_directory import Run
from small import write


def test_a_dry_run_a_run_and_inspect_say_who_has_which_device_and_why(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    config = on_devices(
        device_file(tmp_path),
        federation={"rounds": 1, "deadline": "2 h"},
        evaluation={"unseen": False, "on_clients": "off"},
    )
    path = write(config, tmp_path / "c.toml")
    dry = flexlora("run", path, "--dry-run")
    assert dry.code == 0, dry
    (line,) = (x for x in dry.out.splitlines() if x.startswith("device phones"))
    assert line.startswith("device phones: 3 clients, rank by memory; 14.9 MB of 14.9 MB, ")
    told = json.loads(flexlora("run", path, "--dry-run", "--json").out)["data"]["devices"]
    assert told["phones"]["memory"] == 14.9e6
    folder = tmp_path / "run"
    done = flexlora("run", path, "--out", folder, "--json")
    assert done.code == 0, done
    (record,) = (x for x in map(json.loads, done.out.splitlines()) if x["event"] == "round")
    assert record["simulated"]["device"] == "phones"
    assert record["simulated"]["late"] == []
    assert line in flexlora("inspect", folder).out
    found = json.loads(flexlora("inspect", folder, "--json").out)
    assert found["simulated"] == record["simulated"]["seconds"]
    assert set(found["devices"]["phones"]["clients"]) < set(CLIENTS)
    section = devices(read_runs([folder]))
    note, decided, plan, memory = section.blocks
    assert isinstance(note, Note)
    assert isinstance(decided, Table)
    assert isinstance(plan, Table)
    assert isinstance(memory, Table)
    assert "run: 1 round would have taken" in note.text
    (phones,) = ([x.text for x in row] for row in decided.rows if row[1].text == "phones")
    assert phones[2] == "3"
    assert phones[4].startswith("memory; ")
    (phones,) = ([x.text for x in row] for row in plan.rows if row[1].text == "phones")
    assert phones[2] == "3"
    # One side of factors as serialised is as large as planned, to the byte.
    assert phones[6] == phones[7]
    assert float(phones[3]) == pytest.approx(record["simulated"]["slowest_seconds"], rel=0.2)
    (phones,) = ([x.text for x in row] for row in memory.rows if row[1].text == "phones")
    planned = json.loads((folder / "data.json").read_text())["devices"]["phones"]["planned"]
    assert float(phones[2]) == pytest.approx(planned["training"] / 1e6, abs=0.01)
    assert 0 < planned["training"] < planned["peak"] <= 14.9e6
    if "peak_bytes" not in record:
        pytest.skip("this system does not tell the peak of a process")
    replies = Run.open(folder).events(Replied)
    assert record["peak_bytes"] == max(x.peak_bytes or 0 for x in replies)
    (mine,) = {(x.peak_bytes, x.cohort) for x in replies if x.type == "phones"} & {
        (found["types"]["phones"]["peak_bytes"], found["types"]["phones"]["cohort"])
    }
    assert mine[0] is not None
    assert float(phones[3]) == pytest.approx(mine[0] / 1e6, abs=0.1)
    assert int(phones[4]) == mine[1]
    assert "peak beside base" in flexlora("inspect", folder).out
    (table,) = (x for x in costs(read_runs([folder])).blocks if isinstance(x, Table))
    assert {row[1].text for row in table.rows} == {"phones", "clinics"}


def test_what_cannot_be_is_one_sentence(flexlora: Flexlora, tmp_path: Path) -> None:
    file = device_file(tmp_path, DEVICES.replace("14.9 MB", "14.9"))
    path = write(on_devices(file), tmp_path / "c.toml")
    assert_one_sentence(flexlora("run", path, "--dry-run"), "memory of class phones", "unit")
    missing = flexlora("run", path, "--dry-run", "--set", "clients.devices=nowhere.toml")
    assert_one_sentence(missing, "device file nowhere.toml does not exist")
