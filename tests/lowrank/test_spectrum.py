"""Spectra, their splits and scales, and the certificates of what is cut from them."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from flexlora.lowrank import Certificate, Spectrum, Split, Truncation, svd
from matrices import part, skew
from reference import assert_close, dense, gaussian


def a_spectrum(dtype: torch.dtype = torch.float32) -> Spectrum:
    u = torch.linalg.qr(gaussian(7, 4, seed=1).to(dtype)).Q
    vh = torch.linalg.qr(gaussian(9, 4, seed=2).to(dtype)).Q.T
    return Spectrum(u, torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=dtype), vh)


@pytest.mark.parametrize("split", ["left", "balanced"])
@pytest.mark.parametrize("kind", ["plain", "grown", "shrunk", "ties", "deficient"])
def test_both_splits_are_the_same_matrix(split: Split, kind: str) -> None:
    spectrum = svd(part(kind, 8, 9, 5, seed=3))
    wanted = (spectrum.u.double() * spectrum.s.double()) @ spectrum.vh.double()
    got = spectrum.low_rank(split)
    assert got.shape == spectrum.shape
    assert got.width == spectrum.rank
    assert_close(dense(got), wanted, 1e-6)


def test_left_leaves_orthonormal_rows_and_balanced_two_sides_of_one_size() -> None:
    spectrum = a_spectrum()
    left, balanced = spectrum.low_rank(), spectrum.low_rank("balanced")
    assert torch.equal(left.right, spectrum.vh)
    assert_close(left.left.norm(dim=0), spectrum.s, 1e-6)
    assert_close(balanced.left.norm(dim=0), spectrum.s.sqrt(), 1e-6)
    assert_close(balanced.right.norm(dim=1), spectrum.s.sqrt(), 1e-6)


@pytest.mark.parametrize("exponent", [-140, -30, -1, 0, 1, 30, 120])
def test_a_scaled_truncation_is_that_of_the_scaled_matrix(exponent: int) -> None:
    """Exact, also where the power of two alone is no number of float32 any more."""
    before = a_spectrum(torch.float64).truncate(2)
    got = before.scaled(exponent)
    assert torch.equal(got.kept.s, torch.tensor([4.0, 3.0]).double() * 2.0**exponent)
    assert torch.equal(got.kept.u, before.kept.u)
    assert torch.equal(got.kept.vh, before.kept.vh)
    assert got.error == before.error * 2.0**exponent
    assert got.certificate.spectral == 2.0 * 2.0**exponent
    assert got.share == pytest.approx(before.share, rel=1e-12)
    assert float(before.kept.s[0]) == 4.0


@pytest.mark.parametrize("exponent", [-900, 130, 900])
def test_float64_is_scaled_beyond_float32(exponent: int) -> None:
    got = a_spectrum(torch.float64).truncate(2).scaled(exponent)
    assert got.kept.s.tolist() == [4.0 * 2.0**exponent, 3.0 * 2.0**exponent]


@pytest.mark.parametrize("known", ["exact", "exact-energy", "probabilistic"])
def test_scaling_keeps_what_is_known(
    known: Literal["exact", "exact-energy", "probabilistic"],
) -> None:
    certificate = Certificate(known, 3.0, 2.0, 1e-3)
    got = Truncation(a_spectrum(), certificate).scaled(3).certificate
    assert got == Certificate(known, 24.0, 16.0, 1e-3)


@pytest.mark.parametrize("rank", [0, 1, 3, 4, 9])
def test_a_cut_is_certified_by_the_values_it_cut_off(rank: int) -> None:
    got = a_spectrum().truncate(rank)
    rest = [4.0, 3.0, 2.0, 1.0][rank:]
    assert got.kept.rank == min(rank, 4)
    assert got.kept.shape == (7, 9)
    assert skew(got.kept) <= 1e-5
    assert got.certificate == Certificate("exact", got.error, rest[0] if rest else 0.0)
    assert got.error == pytest.approx(math.sqrt(sum(x * x for x in rest)))
    assert got.share == pytest.approx(sum(x * x for x in rest) / 30.0)


def test_a_certificate_of_values_too_small_to_square() -> None:
    got = Certificate.exact(torch.tensor([3e-30, 4e-30]))
    assert got.error == pytest.approx(5e-30)
    assert Certificate.exact(torch.zeros(0)) == Certificate("exact", 0.0, 0.0, 0.0)


def test_a_truncation_that_kept_nothing_lost_all_or_nothing() -> None:
    empty = Spectrum.zero(3, 4)
    assert Truncation(empty, Certificate("exact", 0.0, 0.0)).share == 0.0
    assert Truncation(empty, Certificate("exact-energy", 2.0, 2.0)).share == 1.0
