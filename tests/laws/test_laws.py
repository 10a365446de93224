"""Each law is broken by what is made to break it, and kept by what is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import pytest
import torch
from torch import Tensor

from flexlora.laws import LAWS, Given, Sent, hold, hold_all


class Sound:
    """The exact sum of the products, and its best part for each client."""

    def share(self, sent: Sequence[Sent], place: int) -> float:
        return sent[place].weight / sum(x.weight for x in sent)

    def product(self, x: Sent) -> Tensor:
        return x.product()

    def cut(self, u: Tensor, s: Tensor, vh: Tensor, r: int) -> Given:
        return u[:, :r] * s[:r], vh[:r], 1.0

    def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
        parts = [self.share(sent, place) * self.product(x) for place, x in enumerate(sent)]
        u, s, vh = torch.linalg.svd(torch.stack(parts).sum(dim=0), full_matrices=False)
        return {client: self.cut(u, s, vh, r) for client, r in ranks.items()}


class HalfARoot(Sound):
    def cut(self, u: Tensor, s: Tensor, vh: Tensor, r: int) -> Given:
        return u[:, :r] * s[:r].sqrt(), vh[:r], 1.0


class NoScale(Sound):
    def product(self, x: Sent) -> Tensor:
        return x.b.double() @ x.a.double()


class SquaredRows(Sound):
    """What a client's factors are counts, not their product alone."""

    def product(self, x: Sent) -> Tensor:
        return x.product() * float(x.a.norm() / x.b.norm()) ** 0.5


class FirstCounts(Sound):
    def share(self, sent: Sequence[Sent], place: int) -> float:
        return 1.0 if place == 0 else 0.0


class Unnormalised(Sound):
    def share(self, sent: Sequence[Sent], place: int) -> float:
        return sent[place].weight


class AllAlike(Sound):
    def share(self, sent: Sequence[Sent], place: int) -> float:
        return 1.0 / len(sent)


class LastDirections(Sound):
    def cut(self, u: Tensor, s: Tensor, vh: Tensor, r: int) -> Given:
        return u[:, -r:] * s[-r:], vh[-r:], 1.0


class NoMask(Sound):
    def cut(self, u: Tensor, s: Tensor, vh: Tensor, r: int) -> Given:
        return u * s, vh, 1.0


class OnlyAtFirst(Sound):
    """Sound in the first round alone."""

    rounds = 0

    def share(self, sent: Sequence[Sent], place: int) -> float:
        return super().share(sent, place) if self.rounds == 1 else float(place)

    def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
        self.rounds += 1
        return super().aggregate(sent, ranks)


class KeepsItsFirst(Sound):
    """Whatever comes later, clients get what the first round gave."""

    kept: dict[str, Given] | None = None

    def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
        self.kept = self.kept or super().aggregate(sent, ranks)
        return self.kept


class EveryOtherDoubled(Sound):
    """What other federations did before counts, as a generator's state would."""

    made = 0

    def __init__(self) -> None:
        EveryOtherDoubled.made += 1
        self.factor = 1.0 + EveryOtherDoubled.made % 2

    def product(self, x: Sent) -> Tensor:
        return self.factor * x.product()


# Law → what breaks it, and all the laws that this breaks.
BROKEN: dict[str, tuple[type[Sound], Set[str]]] = {
    "again": (EveryOtherDoubled, LAWS.keys() - {"best", "rank", "counts"}),
    "alone": (HalfARoot, {"alone", "agree"}),
    "agree": (Unnormalised, {"alone", "agree", "weights"}),
    "scale": (NoScale, {"alone", "agree", "scale"}),
    "basis": (SquaredRows, {"alone", "agree", "scale", "basis"}),
    "order": (FirstCounts, {"order"}),
    "weights": (Unnormalised, {"alone", "agree", "weights"}),
    "absent": (AllAlike, {"absent"}),
    "best": (LastDirections, {"agree", "best"}),
    "rank": (NoMask, {"best", "rank"}),
    "counts": (KeepsItsFirst, {"counts"}),
}


def test_what_is_sound_keeps_all_laws() -> None:
    assert [x.standing for x in hold_all(Sound)] == ["holds"] * len(LAWS)
    assert max(x.error for x in hold_all(Sound)) < 5e-6


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_broken_by_what_breaks_it(law: str) -> None:
    made, broken = BROKEN[law]
    verdicts = {x.law: x for x in hold_all(made)}
    assert {name for name, x in verdicts.items() if x.standing == "fails"} == broken
    assert verdicts[law].error > 0.01
    assert verdicts[law].counterexample[-1].startswith("relative error ")


def test_laws_are_tried_in_the_second_round_too() -> None:
    verdict = hold(OnlyAtFirst, LAWS["order"])
    assert verdict.standing == "fails"
    assert verdict.counterexample[0].startswith("the second round of a layer of 4 × 4")
    assert hold(OnlyAtFirst, LAWS["agree"]).standing == "holds"


def test_what_clients_of_one_rank_alone_break_is_asked_at_one_rank() -> None:
    class Mean:
        """The mean of factors, which needs one rank."""

        mixed_ranks = False

        def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
            whole = sum(x.weight for x in sent)
            b = torch.stack([x.weight / whole * x.scale * x.b for x in sent]).sum(dim=0)
            a = torch.stack([x.weight / whole * x.a for x in sent]).sum(dim=0)
            return dict.fromkeys(ranks, (b, a, 1.0))

    broken = {x.law for x in hold_all(Mean) if x.standing == "fails"}
    assert broken == {"agree", "basis"}
