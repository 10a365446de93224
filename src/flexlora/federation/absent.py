"""Examples that stay with a client on another machine: what is known of them here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from flexlora.tasks.prompts import Encoded


@final
@dataclass(frozen=True)
class Absent(Sequence[Encoded]):
    """So many examples; none of them is here.

    tokens: of their right answers, all together; truncated: examples of which a part was cut;
    digest: of all their token ids, as the client made it.
    """

    size: int
    tokens: int
    truncated: int
    digest: str

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        raise RuntimeError(f"example {place} lies with a client on another machine")


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def bounded(part: Sequence[Encoded], amount: int, most: int) -> int:
    """An amount as the server knows it, or as a client says, who may say this much."""
    return min(amount, most) if isinstance(part, Absent) else amount


def answer_tokens(part: Sequence[Encoded]) -> int:
    """Tokens of the right answers, all together."""
    return part.tokens if isinstance(part, Absent) else sum(len(x.response) for x in part)


def truncated(part: Sequence[Encoded]) -> int:
    """Examples of which something was cut."""
    return part.truncated if isinstance(part, Absent) else sum(x.truncated for x in part)


def add_to(digest: Digest, part: Sequence[Encoded]) -> None:
    """All token ids of these examples, in order."""
    if isinstance(part, Absent):
        digest.update(part.digest.encode())
        return
    for example in part:
        digest.update(repr((example.prompt, example.response, example.choices)).encode())
