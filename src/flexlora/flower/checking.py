"""Whether a client can take part, found out beforehand: one finding for each thing it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flexlora.errors import FlexLoRAError, InputError
from flexlora.flower.begun import require_port
from flexlora.flower.door import reach, read_authority, shake_hands
from flexlora.flower.keys import read_key


@dataclass(frozen=True)
class Finding:
    """what: one thing that a client needs; words: what it is, or what is wrong and the cure."""

    what: str
    good: bool
    words: str


def link_findings(
    address: str, authority: Path | None, key: Path | None, *, insecure: bool, port: int
) -> Iterator[Finding]:
    """certificate, key, server and port, in this order. Nothing is sent but the key's name."""
    if insecure:
        yield _found("server", lambda: _without_tls(address))
    else:
        yield from _by_tls(address, authority, key)
    yield _found("port", lambda: _port(port))


def _by_tls(address: str, authority: Path | None, key: Path | None) -> Iterator[Finding]:
    reached: FlexLoRAError | None = None
    greeted = False
    try:
        pem = None if authority is None else read_authority(authority)
        words = "of this system" if authority is None else f"{authority}"
        try:
            shake_hands(address, pem)
            greeted = True
            yield Finding("certificate", True, f"{words}, vouches for the server at {address}")
        except InputError:
            raise
        except FlexLoRAError as error:
            reached = error
            yield Finding("certificate", True, f"{words}; no server could be held against it")
    except InputError as error:
        yield Finding("certificate", False, str(error))
    private = None
    if key is None:
        yield Finding("key", True, "none given")
    else:
        try:
            private = read_key(key)
            yield Finding("key", True, f"{key} can be read, ECDSA on {private.curve.name}")
        except InputError as error:
            yield Finding("key", False, str(error))
    if reached is not None:
        yield Finding("server", False, str(reached))
    elif not greeted:
        yield Finding("server", False, f"{address} was not asked: put the certificate right first")
    elif key is not None and private is None:
        yield Finding("server", False, f"{address} was not asked: put the key right first")
    else:
        from flexlora.flower.knock import Answer, knock

        def ask() -> str:
            answer = knock(address, pem, private)
            if answer is Answer.UNKNOWN:
                raise FlexLoRAError(
                    f"{address} does not know this key; its operator lets it in with: flwr "
                    f"supernode register {key}.pub CONNECTION"
                )
            if answer is Answer.KEYS_ALONE:
                raise FlexLoRAError(
                    f"{address} lets in registered keys alone; give this node's with --key"
                )
            return f"{address} answers: {answer.value}"

        yield _found("server", ask)


def _without_tls(address: str) -> str:
    from flexlora.flower.knock import Answer, knock_without_tls

    reach(address).close()
    if knock_without_tls(address) is Answer.KEYS_ALONE:
        raise FlexLoRAError(
            f"{address} lets in registered keys alone, which need TLS; give --root-certificates "
            "and --key instead of --insecure"
        )
    return f"{address} answers, without TLS and keys"


def _port(port: int) -> str:
    require_port(port)
    return f"{port} of this machine is free"


def _found(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except FlexLoRAError as error:
        return Finding(what, False, str(error))
