"""From one layer's replies to what clients of every rank are sent: the original way, and ours.

A procedure takes a `Round` and gives what it keeps of the sum, as a spectrum, with the certificate
of ours. `readouts` cuts that to each distinct rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch

from flexlora.adapters import Factors, factors_of
from flexlora.lowrank import Certificate, LowRank, Matrix, Spectrum, choose_path, total, truncate
from flexlora.lowrank.truncate import Path
from measuring import seconds
from one_layer import Replies

# Replies above this are read from disk, client by client, by every procedure alike.
HELD_BYTES = 1_000_000_000
# Many times wider than the layer, factors are never worth multiplying with one by one.
_WIDEST_IMPLICIT = 8
_SEED = 7


class Round:
    """A layer's replies, ready to be summed: on a device, or on disk where they are large."""

    def __init__(self, replies: Replies, device: str = "cpu") -> None:
        self.replies, self.device = replies, torch.device(device)
        self.shape, self.width = (replies.layer.m, replies.layer.n), replies.width
        self.ranks = sorted(set(replies.ranks))
        self.rank = self.ranks[-1]
        self.held = replies.nbytes <= HELD_BYTES or device != "cpu"
        loaded = [replies.factors(client) for client in range(self.clients)] if self.held else []
        self.transfer_seconds, self._factors = seconds(
            lambda: [moved(factors, device) for factors in loaded], device
        )

    @property
    def clients(self) -> int:
        return len(self.replies.ranks)

    def parts(self) -> Iterator[tuple[float, Factors]]:
        """(weight, factors) of every client, in order."""
        for client, weight in enumerate(self.replies.weights):
            yield weight, self._factors[client] if self.held else self.replies.factors(client)

    def products(self) -> Iterator[tuple[float, LowRank]]:
        return ((weight, factors.product()) for weight, factors in self.parts())

    def total(self) -> Matrix:
        return total(self.products(), self.shape, self.width, self.rank)


def moved(factors: Factors, device: str) -> Factors:
    return Factors(factors.b.to(device), factors.a.to(device), factors.scale)


@dataclass(frozen=True, eq=False)
class Kept:
    """What a procedure keeps of the sum. The original procedure gives no certificate."""

    spectrum: Spectrum
    certificate: Certificate | None = None
    path: str = "dense"


Procedure = Callable[[Round], Kept]


def original(round: Round) -> Kept:
    """Steps 3 and 4 of arXiv 2402.11505: ΔW in full, client by client, and its whole SVD."""
    whole = torch.zeros(round.shape, device=round.device)
    for weight, factors in round.parts():
        whole.addmm_(factors.b, factors.a, alpha=weight * factors.scale)
    return Kept(Spectrum(*torch.linalg.svd(whole, full_matrices=False)))


def ours(round: Round, path: Path | None = None) -> Kept:
    """`total` and `truncate`; on the path that the shapes choose, or on one that is named."""
    matrix = _gathered(round) if path == "implicit" else round.total()
    generator = torch.Generator().manual_seed(_SEED)
    cut = truncate(matrix, round.rank, generator, path=path)
    width = matrix.width if isinstance(matrix, LowRank) else None
    taken = path or choose_path(round.shape, width, round.rank)
    return Kept(cut.kept, cut.certificate, taken)


def _gathered(round: Round) -> LowRank:
    """The sum as factors, however wide."""
    left = torch.empty(round.shape[0], round.width, device=round.device)
    right = torch.empty(round.width, round.shape[1], device=round.device)
    filled = 0
    for weight, part in round.products():
        place = slice(filled, filled + part.width)
        torch.mul(part.left, weight, out=left[:, place])
        right[place] = part.right
        filled += part.width
    return LowRank(left, right)


def readout(spectrum: Spectrum, rank: int, scale: float) -> Factors:
    """Step 5: B = U_r S_r / scale, A = V_rᵀ, copied as they are to be sent."""
    b = spectrum.u[:, :rank] * (spectrum.s[:rank] / scale)
    return Factors(b, spectrum.vh[:rank].clone(), scale)


def readouts(kept: Kept, ranks: Sequence[int], scale: Callable[[int], float]) -> list[Factors]:
    """One for each of these ranks; ours by the function that the rules use."""
    cut = readout if kept.certificate is None else factors_of
    return [cut(kept.spectrum, rank, scale(rank)) for rank in ranks]


PATHS: tuple[Path, ...] = get_args(Path)


def procedures(round: Round) -> dict[str, Procedure]:
    """Name → procedure, of those that make sense for this round."""
    found: dict[str, Procedure] = {"original": original}
    for path in (None, *PATHS):
        if path != "implicit" or round.width <= _WIDEST_IMPLICIT * min(round.shape):
            found[path or "ours"] = partial(ours, path=path)
    return found


class Float64:
    """The dense float64 sum, and its best approximation of the round's rank."""

    def __init__(self, round: Round) -> None:
        self._whole = torch.zeros(round.shape, dtype=torch.float64)
        for weight, factors in round.parts():
            b, a = factors.b.cpu().double(), factors.a.cpu().double()
            self._whole.addmm_(b, a, alpha=weight * factors.scale)
        u, s, vh = torch.linalg.svd(self._whole, full_matrices=False)
        rank = round.rank
        self._best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        self.least = float(s[rank:].norm())
        self._size = float(s.norm())
        self.gap = float(s[rank - 1] / s[rank]) if len(s) > rank and float(s[rank]) else None

    def compare(self, spectrum: Spectrum, rank: int) -> tuple[float | None, float]:
        """((‖ΔW − T‖ − least) / least, ‖T − T₆₄‖ / ‖T₆₄‖); None where nothing is left over."""
        u, s, vh = (x.double().cpu() for x in (spectrum.u, spectrum.s, spectrum.vh))
        kept = (u[:, :rank] * s[:rank]) @ vh[:rank]
        distance = float((self._whole - kept).norm())
        known = self.least > 1e-9 * self._size
        excess = (distance - self.least) / self.least if known else None
        return excess, float((kept - self._best).norm() / self._best.norm())
