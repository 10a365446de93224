"""Asks a SuperLink whether it would let a node of this key in, without joining."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from flexlora.errors import WireError, cut_short

_NO_BEAT = 0.0  # No node may have such a heartbeat: whoever sends it is never let in.


class Answer(Enum):
    """What a server says to a key."""

    KNOWN = "the key is registered"
    UNKNOWN = "the key is not registered"
    ANYBODY = "the server lets anybody in"
    KEYS_ALONE = "the server lets in registered keys alone"


def knock(address: str, authority: bytes | None, key: ec.EllipticCurvePrivateKey | None) -> Answer:
    """Ask without joining: no node is connected or let go of by it. key: None asks whether the
    server wants one. authority: PEM; None: the system's.

    A key is asked about by a request to join that no server grants, whose refusal says whether the
    key is known. Raises WireError for a server that is no SuperLink, or of another version.
    """
    return _asked(address, authority, key, insecure=False)


def knock_without_tls(address: str) -> Answer:
    return _asked(address, None, None, insecure=True)


def _asked(
    address: str, authority: bytes | None, key: ec.EllipticCurvePrivateKey | None, *, insecure: bool
) -> Answer:
    mine = ec.generate_private_key(ec.SECP384R1()) if key is None else key
    interceptors: list[Any] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(mine, mine.public_key()),
    ]
    public = public_key_to_bytes(mine.public_key())
    made = FleetHttpClient.from_server_address(address, insecure, authority, interceptors)
    with made as client:
        if key is None:
            asked = RegisterNodeFleetRequest(public_key=public)
            code, answer = _code(lambda: client.RegisterNode(asked))
            if code == ApiErrorCode.FLEET_SUPERNODE_REGISTRATION_DISABLED:
                return Answer.KEYS_ALONE
            with suppress(httpx.HTTPError, AttributeError):
                client.UnregisterNode(UnregisterNodeFleetRequest(node_id=answer.node_id))
            return Answer.ANYBODY
        wanted = ActivateNodeRequest(public_key=public, heartbeat_interval=_NO_BEAT)
        code, _ = _code(lambda: client.ActivateNode(wanted))
        if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return Answer.KNOWN
        return Answer.UNKNOWN


def _code(call: Callable[[], Any]) -> tuple[int | None, Any]:
    """(Flower's number of what it refused, None where it did not; what it answered)."""
    try:
        return None, call()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise WireError(
                "it does not take the key's signature; set the clocks of both machines right"
            ) from error
        refused = FlowerError.from_json(error.response.text)
        if refused is None:
            raise WireError(
                f"it answers {error.response.status_code}; is it a SuperLink?"
            ) from error
        return refused.code, None
    except (httpx.HTTPError, ValueError) as error:
        reason = cut_short(" ".join(str(error).split()), 100)
        raise WireError(f"it does not answer as a SuperLink does ({reason})") from error
    except SystemExit as error:  # How Flower ends a process of another version.
        raise WireError("it runs another version of Flower; install the same on both") from error
