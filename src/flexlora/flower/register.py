"""Who the nodes are: each is asked, and known from then on by its operator's name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flexlora.engines.jobs import Failure
from flexlora.errors import seen
from flexlora.federation.outcomes import why
from flexlora.flower.described import DESCRIBE, REFUSED, Described
from flexlora.flower.nodes import Came, Link, Lost, Node, fresh_ask
from flexlora.flower.outcomes import packet_outcome
from flexlora.flower.packets import (
    FAILURE,
    Address,
    Packet,
    packed,
    read_header,
    require_address,
    require_size,
    unpacked,
)
from flexlora.flower.plan import Plan
from flexlora.formats.visible import brief

_EVERY = 2.0  # Seconds between two looks at which nodes there are.
_TELLING = 12.0  # Seconds in which whoever is refused is told why.
_AGAIN = 15.0  # Seconds after which a node that was refused is asked again.


@dataclass(frozen=True)
class Seat:
    """Where a client is: its node now; None while it is away. key: what its node had first."""

    node: int | None
    key: bytes
    described: Described


class Register:
    """Name → seat, of the clients that fit the run.

    A node is asked when it is first seen. It is refused, with a sentence in `refused` (node → why),
    where it cannot take part, where its base model is not the server's, where no rank fits the
    device that it tells of, and where it claims a name that another connected node has, or that
    came with another key. It is told the sentence, for its operator's log; a while later it is
    asked again, for it may have been mended. A client whose node has gone is away until a node of
    its name comes.
    """

    def __init__(
        self,
        link: Link,
        plan: Plan,
        model: str,
        *,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
        unserved: Callable[[Described], str] = lambda _: "",
    ) -> None:
        """model: fingerprint of the server's base; deadline: seconds in which nodes answer;
        unserved: why a new client can train at no rank, "" where it can."""
        self.seats: dict[str, Seat] = {}
        self.noted: Callable[[str], None] = lambda _: None  # Who went, and who came back.
        self.back: set[str] = set()  # Who came back, until somebody takes note of it.
        self.refused: dict[int, str] = {}
        self._link = link
        self._plan = plan
        self._model = model
        self._deadline = deadline
        self._unserved = unserved
        self._clock = clock
        self._looked = -_EVERY
        self._refused_at: dict[int, float] = {}
        self._asked: dict[str, tuple[Node, Address, float]] = {}
        self._telling: dict[str, float] = {}  # Message → until when it is waited for.
        self._told: dict[int, str] = {}  # Node → the last sentence that it was told.

    @property
    def asking(self) -> int:
        """Nodes that have been asked and have not answered yet."""
        return len(self._asked)

    @property
    def telling(self) -> int:
        """Nodes that are just being told why they were refused."""
        return len(self._telling)

    def node(self, client: str) -> int | None:
        seat = self.seats.get(client)
        return None if seat is None else seat.node

    def look(self, *, anew: bool = False) -> None:
        """Ask new nodes, take in what was answered, note who has gone. Called again and again.

        anew: look which nodes there are, however short a time ago that was done.
        """
        if anew or self._clock() - self._looked >= _EVERY:
            self._looked = self._clock()
            self._meet(self._link.nodes())
        for message, until in list(self._telling.items()):
            if self._link.pull(message) is not None or self._clock() >= until:
                del self._telling[message]
        for message in list(self._asked):
            node, asked, until = self._asked[message]
            found = self._link.pull(message)
            if found is None and self._clock() < until:
                continue
            del self._asked[message]
            if isinstance(found, Came):
                self._take(node, asked, found)
            else:
                told = found.reason if isinstance(found, Lost) else "it gave no answer in time"
                self._refuse(node, told)

    def _meet(self, nodes: list[Node]) -> None:
        here = {node.id for node in nodes}
        for name, seat in self.seats.items():
            if seat.node is not None and seat.node not in here:
                self.seats[name] = replace(seat, node=None)
                self.noted(f"client {seen(name)} has gone: its node is not connected any more")
        now = self._clock()
        for id in list(self.refused):
            if id not in here or now - self._refused_at[id] >= _AGAIN:
                del self.refused[id], self._refused_at[id]
        self._told = {id: words for id, words in self._told.items() if id in here}
        known = {seat.node for seat in self.seats.values()} | self.refused.keys()
        known |= {node.id for node, _, _ in self._asked.values()}
        for node in nodes:
            if node.id not in known:
                self._ask(node)

    def _ask(self, node: Node) -> None:
        asked = Address(self._plan.run, 0, "", "", fresh_ask())
        header, body = packed(Packet(DESCRIBE, asked, {}, {"plan": self._plan.to_facts()}))
        message = self._link.push(node.id, header, body, self._deadline)
        if message is None:
            self._refuse(node, "the network took no message for it")
        else:
            self._asked[message] = node, asked, self._clock() + self._deadline

    def _take(self, node: Node, asked: Address, came: Came) -> None:
        try:
            header = read_header(came.header)
            if header.packet.kind != FAILURE:
                require_address(header, asked)
            require_size(header, 0)
            packet = unpacked(header, came.body)
            if packet.kind == FAILURE:  # Its own log has it.
                failure = packet_outcome(packet)
                assert isinstance(failure, Failure)
                self._refuse(node, failure.reason)
                return
            described = Described.from_packet(packet)
            seat = self.seats.get(described.name)
            unfit = self._unfit(described, node, seat)
        except Exception as error:  # A stranger's words did it: they keep no run from beginning.
            self._refuse(node, why(error))
            self._tell(node)
            return
        name = described.name
        if unfit:
            self._refuse(node, unfit)
            self._tell(node)
        elif seat is None:
            self.seats[name] = Seat(node.id, node.key, described)
        else:
            self.seats[name] = replace(seat, node=node.id)
            self.back.add(name)
            self.noted(f"client {seen(name)} is back")

    def _unfit(self, described: Described, node: Node, seat: Seat | None) -> str:
        """Why a client cannot take part; "" where it can."""
        name = seen(described.name)
        if described.model != self._model:
            return (
                f"client {name} has a base model of fingerprint {seen(described.model[:12])}, the "
                f"server one of {self._model[:12]}; give both the same weights, in the same dtype"
            )
        if seat is None:
            return self._unserved(described)
        if seat.key != node.key:
            return f"a second node calls itself {name}, with another key; give it its own name"
        if seat.node is not None:
            return (
                f"two clients are called {name}, nodes {seat.node} and {node.id}; give each a name "
                "of its own (client.name)"
            )
        was = seat.described
        if (described.train_digest, described.held_out_digest) != (
            was.train_digest,
            was.held_out_digest,
        ):
            return f"client {name} came back with other examples than it had when the run began"
        return ""

    def _refuse(self, node: Node, reason: str) -> None:
        self.refused[node.id] = brief(reason, 500)
        self._refused_at[node.id] = self._clock()

    def _tell(self, node: Node) -> None:
        """Its operator reads it at the client, whoever reads the server's log."""
        reason = self.refused[node.id]
        if self._told.get(node.id) == reason:
            return
        asked = Address(self._plan.run, 0, "", "", fresh_ask())
        header, body = packed(Packet(REFUSED, asked, {}, {"reason": reason}))
        message = self._link.push(node.id, header, body, _TELLING)
        if message is not None:
            self._told[node.id] = reason
            self._telling[message] = self._clock() + _TELLING
