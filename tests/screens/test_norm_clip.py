"""Clipping by the median, and how a shrunk update enters a rule."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import Factors
from flexlora.errors import ConfigError
from flexlora.rules import Contribution
from flexlora.screens import SCREENS, Products, Screen, make_screen, register, shrunk
from flexlora.screens.norm_clip import NormClip
from reference import as_in_production, assert_close, gaussian, product


def round_of(*norms: float) -> Products:
    """One client for each norm; its update is that long."""
    zero = Factors(torch.zeros(4, 1), torch.ones(1, 1), 1.0)
    layer = [
        Contribution.of(str(k), 1.0, Factors(torch.full((4, 1), norm / 2), zero.a, 1.0), sent=zero)
        for k, norm in enumerate(norms)
    ]
    counts = {c.client: 1 for c in layer}
    return Products(counts, {c: 1 / len(layer) for c in counts}, lambda: [layer])


def test_what_is_longer_than_a_few_medians_is_as_long_as_that() -> None:
    verdicts = NormClip(factor=2.0).verdicts(round_of(1.0, 1.5, 1.0, 10.0, 0.0))
    assert set(verdicts) == {"3"}
    assert verdicts["3"].weight == 1.0
    assert verdicts["3"].shrink == pytest.approx(0.2)
    assert NormClip(factor=10.0).verdicts(round_of(1.0, 1.5, 1.0, 10.0)) == {}
    assert NormClip().verdicts(round_of(0.0, 0.0, 5.0)) == {}
    assert NormClip(factor=0.5).verdicts(round_of(4.0))["0"].shrink == 0.5


@pytest.mark.parametrize("first", ["norms", "gram"])
def test_where_half_return_what_they_were_sent_nobody_is_clipped(first: str) -> None:
    """Their change is zero, not the rounding of two products that are equal."""
    layers = []  # Of several shapes: whether equal products cancel depends on the processor's sums.
    for m, n, rank in ((64, 64, 8), (30, 40, 5), (64, 50, 7)):
        sent = Factors(gaussian(m, rank, seed=1), gaussian(rank, n, seed=2), 16.0 / 30.0)
        step = Factors(sent.b + 0.01 * gaussian(m, rank, seed=9), sent.a, sent.scale)
        back = {"ann": sent, "bob": sent, "cyd": sent, "dan": step, "eve": step}
        layers.append([Contribution.of(c, 1 / 5, f, sent=sent) for c, f in back.items()])
    products = Products(dict.fromkeys(back, 1), dict.fromkeys(back, 1 / 5), lambda: layers)
    getattr(products, first)
    assert [products.norms[client] for client in ("ann", "bob", "cyd")] == [0.0] * 3
    assert products.norms["dan"] > 1e-3
    assert NormClip().verdicts(products) == {}


def trained(rank: int, seed: int, scale: float = 0.5) -> Factors:
    return Factors(gaussian(7, rank, seed=seed), gaussian(rank, 6, seed=seed + 1), scale)


@pytest.mark.parametrize("rank", [3, 2])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_change_as_products_and_as_factors(rank: int, share: float) -> None:
    """Also of a client that has pruned itself to a lower rank."""
    sent, returned = trained(3, 1), trained(rank, 5)
    whole = shrunk(returned, sent, share, as_factors=False)
    moved = product(returned) - product(sent)
    assert_close(product(whole), product(sent) + share * moved, 1e-6)
    assert whole.scale == returned.scale
    sides = shrunk(returned, sent, share, as_factors=True)
    assert sides.rank == rank
    kept = sent.cut(rank)
    assert_close(sides.b, kept.b + share * (returned.b - kept.b), 1e-6)
    assert_close(sides.a, kept.a + share * (returned.a - kept.a), 1e-6)


def test_half_precision_is_not_rounded_again() -> None:
    sent, returned = trained(3, 1), trained(3, 5)
    half = Factors(returned.b.bfloat16(), returned.a.bfloat16(), 0.5)
    for as_factors in (True, False):
        assert shrunk(half, sent, 0.5, as_factors=as_factors).b.dtype == torch.float32


def test_one_side_alone_is_shrunk_by_itself() -> None:
    sent, returned = trained(3, 1).only("a"), trained(3, 5).only("a")
    found = shrunk(returned, sent, 0.25, as_factors=False)
    assert found.sides == "a"
    assert_close(found.a, sent.a + 0.25 * (returned.a - sent.a), 1e-6)


def test_a_side_that_was_not_sent_is_shrunk_to_zero() -> None:
    sent, returned = trained(3, 1).only("a"), trained(3, 5)
    whole = shrunk(returned, sent, 0.25, as_factors=False)
    assert_close(product(whole), 0.25 * product(returned), 1e-6)
    sides = shrunk(returned, sent, 0.25, as_factors=True)
    assert_close(sides.b, 0.25 * returned.b, 1e-6)
    assert_close(sides.a, sent.a + 0.25 * (returned.a - sent.a), 1e-6)


def test_screens_are_made_by_name_with_options_of_their_types() -> None:
    with as_in_production():
        assert make_screen("norm_clip", {"factor": 2}).factor == 2  # type: ignore[attr-defined]
    assert make_screen("norm_clip").judges
    for name, options, message in (
        ("norm_clop", {}, "screen 'norm_clop' is unknown; did you mean 'norm_clip'"),
        ("norm_clip", {"facto": 1.0}, "screens.norm_clip.facto is not an option of 'norm_clip'"),
        (
            "norm_clip",
            {"factor": "a"},
            'screens.norm_clip.factor is "a", expected a number above',
        ),
        (
            "norm_clip",
            {"factor": 0.0},
            "screens.norm_clip.factor is 0.0, expected a number above",
        ),
    ):
        with as_in_production(), pytest.raises(ConfigError, match=message.replace(".", r"\.")):
            make_screen(name, options)
    with as_in_production(), pytest.raises(ConfigError, match=r"norm_clip\.factor is inf"):
        NormClip(factor=float("inf"))


def test_a_taken_name_is_refused() -> None:
    class Impostor(Screen):
        name = "norm_clip"

    assert not Impostor().judges
    with pytest.raises(ConfigError, match="screen 'norm_clip' is registered already"):
        register(Impostor)
    assert register(NormClip) is SCREENS["norm_clip"]
