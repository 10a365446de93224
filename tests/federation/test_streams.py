"""Random streams depend on their name alone."""

import pytest
import torch

from flexlora.federation import streams
from flexlora.federation.streams import Streams


def test_a_name_gives_the_same_numbers_whatever_else_is_drawn() -> None:
    streams = Streams(3)
    wanted = torch.rand(4, generator=streams.generator("send", 2))
    torch.rand(9, generator=streams.generator("send", 1))
    torch.rand(9)
    assert torch.equal(torch.rand(4, generator=streams.generator("send", 2)), wanted)
    assert torch.equal(torch.rand(4, generator=Streams(3).generator("send", 2)), wanted)


def test_names_and_seeds_are_told_apart() -> None:
    names = [("send", 1), ("send", 2), ("send", 11), ("send",), ("sample", 1), ("train", 1, "a")]
    seeds = {Streams(seed).derive(*name) for seed in (0, 1, 2**63 - 1) for name in names}
    assert len(seeds) == 3 * len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_pinned() -> None:
    """A changed derivation would make every older run end elsewhere on resume."""
    assert Streams(0).derive("sample", 1) == 4910920539419389242


def test_streams_whose_seeds_share_half_their_bits_have_their_own_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of 2,000,000 pairs of 4,000 clients' may: torch alone would give both the same."""
    seeds = iter((5, 5 + (9 << 32)))
    monkeypatch.setattr(streams, "seed_of", lambda *_: next(seeds))
    made = [Streams(0).generator("train", 1, client) for client in "ab"]
    one, other = (torch.randperm(50, generator=generator).tolist() for generator in made)
    assert one != other


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Streams(0).generator("x").seed()
    assert torch.equal(torch.get_rng_state(), before)
