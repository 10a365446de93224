"""DEPLOY.md as an operator follows it, with real processes: its commands, as they stand."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import tomli_w

from flexlora.flower.begun import free_port
from flexlora.flower.deployment import write_deployment
from flexlora.runs.run_directory import Run
from flower.trainers import client_tables, networked
from follow import blocks

if importlib.util.find_spec("flwr") is None:
    pytest.skip("flwr is not installed: pip install 'flexlora[flower]'", allow_module_level=True)

from flower.processes import Processes, processes

NONE = {"on_clients": "off", "every": 0, "decide_by": "server", "unseen": False}


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_its_commands_end_in_a_run(tmp_path: Path) -> None:
    config = networked(federation={"rounds": 1, "clients_per_round": 1}, evaluation=NONE)
    write_deployment(tmp_path / "app", config, 1, f"127.0.0.1:{free_port()}")
    page = (tmp_path / "app" / "DEPLOY.md").read_text()
    texts = [block.text for block in blocks(page) if block.kind == "sh"]
    certificates, key, superlink, connection, silo, run = texts
    tables = client_tables("north", Path("own"), rows="all", rank=2)
    (tmp_path / "client.toml").write_text(tomli_w.dumps(tables))
    with processes(tmp_path / "p") as made:
        made.folder = tmp_path  # Where an operator stands.
        _done(made, "certificates", certificates)
        _done(made, "key", key)
        _begun(made, "superlink", superlink)
        made.wait_for("superlink", "Uvicorn running")
        _done(made, "connection", connection)
        words = f"--port {free_port()} --superlink"
        _begun(made, "client-north", silo.replace("--superlink", words))
        made.wait_for("client-north", "SuperNode ID")
        told = made.log("client-north")
        assert told.count("✓ ") == 7, told
        assert "✗" not in told
        _done(made, "run", connection.partition("mkdir")[0] + run)
        assert Run.open(tmp_path / "runs" / "first").ended() is not None, made.log("run")


def _begun(made: Processes, name: str, text: str) -> None:
    made.start(name, "sh", "-e", "-c", text)


def _done(made: Processes, name: str, text: str) -> None:
    _begun(made, name, text)
    assert made.running[name].wait(timeout=150) == 0, made.log(name)
