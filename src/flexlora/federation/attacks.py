"""What hostile clients make of what they trained, for rehearsals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors

STRENGTHS: Mapping[str, float] = {
    "scaled": 10.0,
    "sign_flip": 1.0,
    "random": 10.0,
    "shuffled": 1.0,
    "little_is_enough": 1.5,  # As Baruch et al. 2019 (arXiv 1902.06156) have it on CIFAR-10.
    "label_flip": 1.0,
}


def stepped(
    attack: str, trained: Adapter, sent: Adapter, strength: float, draw: torch.Generator
) -> Adapter:
    """Another step from what was `sent`, side by side: the one that was trained, its negative
    (sign_flip), or noise as long (random), times the strength.

    sent: both sides, of at least the trained rank.
    """

    def side(mine: Tensor, theirs: Tensor) -> Tensor:
        step = mine.float() - theirs.float()
        if attack == "sign_flip":
            step = -step
        elif attack == "random":
            noise = torch.randn(step.shape, generator=draw)
            step = step.norm() / noise.norm() * noise
        return (theirs.float() + strength * step).to(mine.dtype)

    return Adapter(
        {
            name: Factors(
                f.b if f.sides == "a" else side(f.b, sent[name].b[:, : f.rank]),
                f.a if f.sides == "b" else side(f.a, sent[name].a[: f.rank]),
                f.scale,
            )
            for name, f in trained.items()
        }
    )


def shuffled(trained: Adapter, strength: float) -> Adapter:
    """Each column of B is paired with another row of A, and has the other sign.

    All norms and singular values of either side alone stay as they were, times the strength; their
    product does not.
    """
    return Adapter(
        {
            name: f
            if f.sides == "a"
            else Factors((-strength * f.b.float().roll(1, dims=1)).to(f.b.dtype), f.a, f.scale)
            for name, f in trained.items()
        }
    )


def little_is_enough(trained: Sequence[Adapter], strength: float) -> list[Adapter]:
    """All of them return their mean less `strength` standard deviations, entry by entry.

    Source: Baruch, Baruch & Goldberg 2019 (NeurIPS, arXiv 1902.06156). Of factors, which begin
    alike; of each rank one component, over all that have it.
    """
    made: list[Adapter] = []
    for own in trained:
        layers = {}
        for name, f in own.items():
            b = f.b if f.sides == "a" else _off((x[name].b.T for x in trained), f.b.T, strength).T
            a = f.a if f.sides == "b" else _off((x[name].a for x in trained), f.a, strength)
            layers[name] = Factors(b.contiguous(), a, f.scale)
        made.append(Adapter(layers))
    return made


def _off(sides: Iterable[Tensor], own: Tensor, strength: float) -> Tensor:
    """Components in rows: for each of `own`'s, over all that have so many."""
    held = [side.float() for side in sides]
    rows = []
    for k in range(len(own)):
        of_all = torch.stack([side[k] for side in held if len(side) > k])
        rows.append(of_all.mean(dim=0) - strength * of_all.std(dim=0, correction=0))
    return torch.stack(rows).to(own.dtype) if rows else own
