"""Inner products of updates, from factors alone, against dense float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Factors, Sides
from flexlora.rules import Contribution
from flexlora.screens import Products, Verdict, products
from reference import assert_close, gaussian, product

SHAPES = ((20, 30), (17, 9))
RANKS = {"ann": 2, "bob": 5, "cyd": 1, "dan": 8}
EXAMPLES = {"ann": 1, "bob": 2, "cyd": 3, "dan": 4}
WEIGHTS = {client: count / 10 for client, count in EXAMPLES.items()}
PRUNED = "bob"


def factors(shape: tuple[int, int], rank: int, seed: int) -> Factors:
    return Factors(
        gaussian(shape[0], rank, seed=seed), gaussian(rank, shape[1], seed=seed + 9), 0.5
    )


def layers() -> list[list[Contribution]]:
    """One client has pruned itself; its update is what it returned less all that it was sent."""
    made = []
    for at, shape in enumerate(SHAPES):
        of_layer = []
        for k, (client, rank) in enumerate(RANKS.items()):
            sent = factors(shape, rank, 100 * at + k)
            trained = factors(shape, rank, 100 * at + k + 50).cut(3 if client == PRUNED else rank)
            of_layer.append(Contribution.of(client, WEIGHTS[client], trained, sent=sent))
        made.append(of_layer)
    return made


def dense_gram(made: list[list[Contribution]]) -> Tensor:
    moved = [
        torch.cat(
            [(product(layer[k].trained) - product(layer[k].sent)).flatten() for layer in made]
        )
        for k in range(len(RANKS))
    ]
    return torch.stack(moved) @ torch.stack(moved).T


def of(made: list[list[Contribution]]) -> Products:
    return Products(EXAMPLES, WEIGHTS, lambda: made)


@pytest.mark.parametrize("wide", [1, 9, 4096])
def test_gram_and_norms_are_the_dense_ones_whatever_the_blocks(
    wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_WIDE", wide)
    made = layers()
    wanted = dense_gram(made)
    assert_close(of(made).gram, wanted, 1e-6)
    norms = of(made).norms
    assert list(norms) == list(RANKS)
    assert list(norms.values()) == pytest.approx(wanted.diagonal().sqrt().tolist(), rel=1e-6)
    both = of(made)
    assert both.gram.diagonal().sqrt().tolist() == pytest.approx(list(both.norms.values()))
    apart = wanted.diagonal()[:, None] + wanted.diagonal() - 2 * wanted
    assert_close(both.distances, apart, 1e-6)


def test_turned_factors_are_the_same_update() -> None:
    """The attack that hides in factors that look harmless apart does not hide here."""
    made = layers()
    turned = [
        [
            Contribution.of(
                c.client,
                c.weight,
                Factors(c.trained.b * 1e3, c.trained.a * 1e-3, c.trained.scale),
                sent=c.sent,
            )
            for c in layer
        ]
        for layer in made
    ]
    assert_close(of(turned).gram, of(made).gram, 1e-5)


@pytest.mark.parametrize("wide", [1, 9, 4096])
def test_for_rules_that_average_factors_these_count_beside_the_product(
    wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_WIDE", wide)
    made = layers()
    steps = []
    for k in range(len(RANKS)):
        flat = []
        for layer in made:
            for side in ("b", "a"):
                new, old = (getattr(x, side).double() for x in (layer[k].trained, layer[k].sent))
                new, old = (new.T, old.T) if side == "b" else (new, old)
                grid = torch.zeros(8, new.shape[1], dtype=torch.float64)
                grid[: len(new)] += new
                grid[: len(old)] -= old
                flat.append(grid.flatten())
        steps.append(torch.cat(flat))
    wanted = dense_gram(made) + torch.stack(steps) @ torch.stack(steps).T
    both = Products(EXAMPLES, WEIGHTS, lambda: made, as_factors=True)
    assert list(both.norms.values()) == pytest.approx(wanted.diagonal().sqrt().tolist(), rel=1e-6)
    again = Products(EXAMPLES, WEIGHTS, lambda: made, as_factors=True)
    assert_close(again.gram, wanted, 1e-6)


@pytest.mark.parametrize("side", ["a", "b"])
def test_where_one_side_is_known_alone_its_change_is_the_update(side: Sides) -> None:
    made = [
        [
            Contribution.of(c.client, c.weight, c.trained.only(side), sent=c.sent.only(side))
            for c in layer
        ]
        for layer in layers()
    ]
    for k, norm in enumerate(of(made).norms.values()):
        steps = []
        for layer in made:
            one, other = (getattr(x, side) for x in (layer[k].trained, layer[k].sent))
            kept = other[:, : layer[k].rank] if side == "b" else other[: layer[k].rank]
            steps.append((one - kept).flatten())
        assert norm == pytest.approx(float(torch.cat(steps).norm()), rel=1e-6)


def test_nothing_is_read_before_it_is_asked_for_nor_twice() -> None:
    read = []

    def told() -> list[list[Contribution]]:
        read.append(1)
        return layers()

    asked = Products(EXAMPLES, WEIGHTS, told)
    left = asked.after({"ann": Verdict(weight=0.0, reason="it is late")}, WEIGHTS)
    assert read == []
    assert len(left.gram) == 3
    assert len(asked.gram) == 4
    assert len(left.norms) == 3
    assert read == [1]


def test_after_a_verdict_the_round_is_what_is_left_of_it() -> None:
    made = of(layers())
    weights = {"bob": 2 / 7, "cyd": 3 / 7, "dan": 2 / 7}
    verdicts = {"ann": Verdict(weight=0.0, reason="late"), "dan": Verdict(0.5, 0.25)}
    left = made.after(verdicts, weights)
    assert left.clients == ("bob", "cyd", "dan")
    assert left.weights == weights
    assert left.examples == {"bob": 2, "cyd": 3, "dan": 4}
    assert left.norms["dan"] == pytest.approx(0.25 * made.norms["dan"])
    assert left.norms["bob"] == made.norms["bob"]
    shares = torch.tensor([1.0, 1.0, 0.25], dtype=torch.float64)
    assert_close(left.gram, made.gram[1:, 1:] * shares[:, None] * shares)
    again = left.after({"dan": Verdict(shrink=0.5)}, weights)
    assert again.norms["dan"] == pytest.approx(0.125 * made.norms["dan"])


@pytest.mark.parametrize(
    "wrong", [{"weight": -1.0}, {"weight": float("nan")}, {"shrink": 1.5}, {"shrink": -0.1}]
)
def test_a_verdict_is_a_factor_and_a_share(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a verdict of weight"):
        Verdict(**wrong)
    with pytest.raises(ValueError, match="without a reason"):
        Verdict(weight=0.0)
