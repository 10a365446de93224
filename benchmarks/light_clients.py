"""Clients that train nothing, behind nodes that are real: each sends back as much as it is sent.

python benchmarks/light_clients.py MODEL NAME=FOLDER …  (MODEL: the fingerprint of the server's
base): one process, in which each listens in a folder of its own, until it is ended.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from flexlora.adapters import Adapter, Factors, factors_payload, payload_adapter
from flexlora.engines.jobs import Reply
from flexlora.flower.described import DESCRIBE
from flexlora.flower.local import listening, private_folder, serve
from flexlora.flower.mailbox import Mailbox
from flexlora.flower.outcomes import outcome_packet
from flexlora.flower.packets import Header, Packet, packed, read_header, unpacked
from flexlora.formats.payloads import from_bytes, to_bytes
from flower.links import NORTH


@cache
def _update(shapes: tuple[tuple[str, int, int, int, float], ...]) -> bytes:
    """Numbers of no meaning, as many as an adapter of these shapes has."""
    made = torch.Generator().manual_seed(0)
    return to_bytes(
        factors_payload(
            Adapter(
                {
                    name: Factors(
                        torch.randn(m, r, generator=made), torch.randn(r, n, generator=made), scale
                    )
                    for name, m, r, n, scale in shapes
                }
            )
        )
    )


def _like(payload: bytes) -> bytes:
    adapter = payload_adapter(from_bytes(payload))
    return _update(
        tuple((name, x.b.shape[0], x.rank, x.a.shape[1], x.scale) for name, x in adapter.items())
    )


def _serve(name: str, folder: Path, model: str) -> None:
    mailbox = Mailbox(folder / "wire")

    def do(header: Header, body: Callable[[], bytes]) -> Packet:
        packet = unpacked(header, body())
        if packet.kind == DESCRIBE:
            return replace(NORTH, name=name, model=model, rank=None).to_packet(packet.address)
        asked = packet.address
        reply = Reply(asked.job, asked.client, _like(packet.parts["payload"]), 4, 0.5, 1, 20, 0.1)
        return outcome_packet(reply, asked)

    def answer(header: bytes, body: Callable[[], bytes]) -> tuple[bytes, bytes]:
        return packed(mailbox.answer(read_header(header), body, lambda _: None, do))

    with listening(folder) as listener:
        serve(listener, answer)


def main() -> None:
    model = sys.argv[1]
    threads = [
        threading.Thread(target=_serve, args=(name, private_folder(folder), model))
        for name, _, folder in (word.partition("=") for word in sys.argv[2:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
