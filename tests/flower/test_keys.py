"""A node's key is of the right kind and nobody else's, or it is said what is wrong with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from commands import Flexlora, assert_one_sentence
from flexlora.errors import ConfigError
from flexlora.flower.keys import certificates, node_key, public_bytes, read_key

SSH, PLAIN = PrivateFormat.OpenSSH, NoEncryption()


def test_what_is_made_is_read_and_closed_to_others(tmp_path: Path) -> None:
    private, public = node_key(tmp_path, "north")
    assert private.stat().st_mode & 0o777 == 0o600
    assert public_bytes(read_key(private)) == public.read_bytes()
    assert certificates(tmp_path).key.stat().st_mode & 0o777 == 0o600


def wrong_keys() -> dict[str, tuple[bytes, str]]:
    other, own = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    pkcs = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, PLAIN)
    return {
        "of another kind": (other.private_bytes(Encoding.PEM, SSH, PLAIN), "kind (Ed25519), not"),
        "of another form": (pkcs, "as OpenSSH writes them"),
        "a public one": (public_bytes(own), "is no private key"),
        "nothing": (b"", "is no private key"),
    }


@pytest.mark.parametrize("kind", list(wrong_keys()))
def test_a_key_that_no_node_can_have_is_told(kind: str, tmp_path: Path) -> None:
    content, told = wrong_keys()[kind]
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_key(path)
    assert told in str(error.value)
    assert "ssh-keygen -t ecdsa -b 384" in str(error.value)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_a_key_with_a_passphrase_is_told(tmp_path: Path) -> None:
    path = tmp_path / "key"
    words = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "secret", "-f", str(path)]
    subprocess.run(words, check=True)
    with pytest.raises(ConfigError, match="without a passphrase"):
        read_key(path)


def test_a_key_that_cannot_be_read_or_that_others_can_read_is_refused(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    """By the command, before it begins anything."""
    (tmp_path / "c.toml").write_text(f'[client]\nname = "a"\nfolder = "{tmp_path}/own"\n')
    private, _ = node_key(tmp_path, "north")
    words = ("flower", "client", tmp_path / "c.toml", "--superlink", "silo.example:80", "--key")
    private.chmod(0o640)
    assert_one_sentence(flexlora(*words, private), "mode 640", f"chmod 600 {private}")
    assert_one_sentence(flexlora(*words, tmp_path / "none"), "key", "missing or cannot be read")
    private.chmod(0o600)
    private.write_text("gossip")
    assert_one_sentence(flexlora(*words, private), "is no private key", "ssh-keygen")
    assert not (tmp_path / "own").exists()
