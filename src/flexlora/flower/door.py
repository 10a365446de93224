"""Whether a server can be reached, and is the one that a certificate vouches for."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from flexlora.errors import ConfigError, WireError

_SECONDS = 10.0
_ANOTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH.
_LARGEST = 1 << 20  # Bytes of a file of certificates.


def read_authority(path: Path) -> bytes:
    """Certificates that vouch for servers. Raises ConfigError for a file of none."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text.decode("ascii"))
    except OSError as error:  # Those of ssl, too.
        reason = error.strerror or "it holds none in PEM"
        raise _no_certificate(path, reason) from error
    except ValueError as error:
        raise _no_certificate(path, "it holds none in PEM") from error
    return text


def shake_hands(address: str, authority: bytes | None) -> None:
    """Begin and end a TLS connection. authority: PEM; None: the system's.

    Raises WireError where nobody listens there, and ConfigError where it is not TLS, or not whom
    the certificate vouches for.
    """
    host, _, _ = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    with reach(address) as plain:
        try:
            context.wrap_socket(plain, server_hostname=host.strip("[]")).close()
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in _ANOTHER_NAME:
                raise ConfigError(
                    f"the server's certificate is for another name than {host}; call it by the "
                    "name that is in it, or have it made anew for this one"
                ) from error
            raise ConfigError(
                f"it does not vouch for the server at {address} ({error.verify_message}); get the "
                "authority's certificate from the server's operator"
            ) from error
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"the server at {address} speaks no TLS; its operator starts it with --ssl-certfile"
                ", --ssl-keyfile and --ssl-ca-certfile"
            ) from error


def reach(address: str) -> socket.socket:
    """A connection, without a word said. Raises WireError where nobody takes it."""
    host, _, port = address.rpartition(":")
    try:
        return socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS)
    except OSError as error:
        raise WireError(
            f"{address} cannot be reached ({error.strerror or error}); is the SuperLink up, is its "
            "name right, and does the firewall let this machine through?"
        ) from error


def _no_certificate(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"certificate {path} cannot be used ({reason}); get the authority's from the server's "
        "operator, often called ca.pem"
    )
