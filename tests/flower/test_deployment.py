"""What `flexlora flower init` makes: an app, a silo's file, and a page whose commands work."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.config.config_file import load_config
from flexlora.errors import ConfigError
from flexlora.flower.app_folder import write_app
from flexlora.flower.client_file import load_client
from flexlora.flower.deployment import sensible, write_deployment
from flexlora.flower.door import read_authority, shake_hands
from flexlora.flower.keys import read_key
from flexlora.flower.networked import require_networked
from flower.doors import tls_server
from flower.trainers import networked
from follow import blocks
from small import write


def test_without_a_config_a_sensible_one_is_written(flexlora: Flexlora, tmp_path: Path) -> None:
    folder = tmp_path / "my app"
    done = flexlora("flower", "init", folder, "--set", "federation.rounds=7", "--clients", 3)
    assert done.code == 0, done
    assert "DEPLOY.md; read that next" in done.out
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["DEPLOY.md", "client.toml", "config.toml", "pyproject.toml"]
    config = load_config(folder / "config.toml")
    require_networked(config)
    assert config.federation.rounds == 7
    assert config.federation == sensible().federation.model_copy(update={"rounds": 7})
    assert "clients = 3" in (folder / "pyproject.toml").read_text()
    assert load_client(folder / "client.toml").client.name == "north"
    page = (folder / "DEPLOY.md").read_text()
    assert "@" not in page
    assert "flwr run 'my app' federation --stream" in page
    assert "clients=3" in page


def test_what_no_network_can_play_is_refused_before_anything_is_written(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    bad = write(networked(evaluation={"validation_examples": 5}), tmp_path / "c.toml")
    done = flexlora("flower", "init", tmp_path / "app", bad)
    assert_one_sentence(done, "validation_examples is 5", "set it to 0")
    assert not (tmp_path / "app").exists()
    done = flexlora("flower", "up", bad, "--out", tmp_path / "run")
    assert_one_sentence(done, "validation_examples is 5", "set it to 0")


def test_a_clients_file_is_no_config(flexlora: Flexlora, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[client]\nname = "north"\n')
    for words in (("init", tmp_path / "app", tmp_path / "c.toml"), ("up", tmp_path / "c.toml")):
        assert_one_sentence(
            flexlora("flower", *words), "is a client's file", "flexlora flower client"
        )


def test_what_is_there_is_not_written_over(flexlora: Flexlora, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    assert_one_sentence(flexlora("flower", "init", tmp_path / "app"), "app", "exists")


@pytest.mark.parametrize(
    "server", ["silo", "silo:", "silo:0", "silo:99999", "a b:80", "$(reboot):80", "a;b:80", ":80"]
)
def test_an_address_that_a_shell_would_read_otherwise_is_refused(
    server: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="give host:port, as server"):
        write_deployment(tmp_path / "app", sensible(), 2, server)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "fl.hospital.example"])
def test_its_certificates_and_keys_are_what_is_needed(host: str, tmp_path: Path) -> None:
    """A server that has them is taken for itself, under its own name and on its own machine."""
    write_deployment(tmp_path / "app", sensible(), 2, f"{host}:8000")
    page = (tmp_path / "app" / "DEPLOY.md").read_text()
    shown = [block.text for block in blocks(page) if block.kind == "sh"]
    for text in (x for x in shown if "openssl" in x or "ssh-keygen" in x):
        done = subprocess.run(
            ["sh", "-e", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for private in ("certs/ca.key", "certs/server.key", "north.key"):
        assert stat.S_IMODE((tmp_path / private).stat().st_mode) == 0o600, private
    assert read_key(tmp_path / "north.key").curve.name == "secp384r1"
    authority = read_authority(tmp_path / "certs" / "ca.pem")
    with tls_server(tmp_path / "certs" / "server.pem", tmp_path / "certs" / "server.key") as port:
        shake_hands(f"127.0.0.1:{port}", authority)
        shake_hands(f"localhost:{port}", authority)
    if host.endswith("example"):
        words = ["openssl", "verify", "-CAfile", "certs/ca.pem", "-verify_hostname", host]
        subprocess.run([*words, "certs/server.pem"], cwd=tmp_path, check=True, capture_output=True)


def test_an_app_may_hold_other_texts(tmp_path: Path) -> None:
    from flexlora.flower.server_settings import ServerSettings

    made = write_app(tmp_path / "app", sensible(), ServerSettings(), {"a.md": "words"})
    assert (made / "a.md").read_text() == "words"
