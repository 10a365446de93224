"""Which examples were trained on, by digests: whoever goes on from there scores none of them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_BYTES = 8  # A million examples against a million others: in one of 10⁷ cases any two seem one.


@dataclass(frozen=True)
class Trained:
    """digests: of examples that were trained on; whole: whether these are all that were."""

    digests: frozenset[str] = frozenset()
    whole: bool = True

    def __or__(self, other: Trained) -> Trained:
        return Trained(self.digests | other.digests, self.whole and other.whole)

    def holds(self, said: Collection[str]) -> bool:
        """Whether an example that says this was trained on."""
        return bool(self.digests) and digest(said) in self.digests

    @staticmethod
    def of(examples: Iterable[Collection[str]]) -> Trained:
        """examples: what each says."""
        return Trained(frozenset(map(digest, examples)))


UNTRAINED = Trained()


def digest(said: Collection[str]) -> str:
    """Sixteen hexadecimal digits of what an example says."""
    # By its repr, which tells ("a", "b") from ("ab",), and writes out lone surrogates.
    return hashlib.blake2b(repr(tuple(said)).encode(), digest_size=_BYTES).hexdigest()
