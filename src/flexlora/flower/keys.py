"""Node keys, as they are read; and certificates and keys for a day on this machine."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from cryptography.x509.oid import NameOID

from flexlora.errors import ConfigError

_MAKE = 'make one with: ssh-keygen -t ecdsa -b 384 -N "" -f'
_LARGEST = 1 << 16  # Bytes of a key's file.


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key. Raises ConfigError for one that cannot be read or used, or that others
    can read."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(_LARGEST)
    except OSError as error:
        raise ConfigError(
            f"key {path} cannot be read ({error.strerror}); check the path, or {_MAKE} {path}"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"key {path} can be read by others (mode {mode & 0o777:o}); close it with chmod 600 "
            f"{path}"
        )
    try:
        key = load_ssh_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"key {path} is no private key as OpenSSH writes them, without a passphrase ({reason})"
            f"; {_MAKE} another-name"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
        raise ConfigError(
            f"key {path} is of another kind ({kind}), not ECDSA; {_MAKE} another-name"
        )
    return key


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Its public key as `.pub` files have it."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@dataclass(frozen=True)
class Certificates:
    """Files: of the authority, and of a server at 127.0.0.1 with its key."""

    authority: Path
    server: Path
    key: Path

    def flags(self) -> list[str]:
        return [
            *("--ssl-ca-certfile", str(self.authority)),
            *("--ssl-certfile", str(self.server)),
            *("--ssl-keyfile", str(self.key)),
        ]


def certificates(folder: Path) -> Certificates:
    """Made for a day, in this folder."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("authority")
    root = _signed(authority, authority, authority_key, authority_key, authority=True)
    server = _signed(_name("127.0.0.1"), authority, server_key, authority_key, authority=False)
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    made.authority.write_bytes(root.public_bytes(Encoding.PEM))
    made.server.write_bytes(server.public_bytes(Encoding.PEM))
    _write_key(made.key, server_key, PrivateFormat.PKCS8)
    return made


def node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A node's (private, public) key, as OpenSSH writes them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    _write_key(private, key, PrivateFormat.OpenSSH)
    public.write_bytes(public_bytes(key))
    return private, public


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    by: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(authority=authority), critical=True)
        .sign(by, hashes.SHA256())
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    signs = dict.fromkeys(("key_cert_sign", "crl_sign"), authority)
    never = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = dict.fromkeys((*never, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not authority, **signs, **others)
