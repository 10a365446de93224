"""The paper's mixes, drawn by quota."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexlora.adapters import LayerSpec, Ranks
from flexlora.allocation.mixes import MIXES, TYPES, Mix, build_mix, draw
from flexlora.errors import ConfigError

quick = settings(max_examples=60, deadline=None, derandomize=True)
LLAMA = [
    LayerSpec("model.layers.0.self_attn.q_proj", 2048, 2048),
    LayerSpec("model.layers.0.mlp.up_proj", 5504, 2048),
    LayerSpec("model.layers.0.adapter.proj", 2048, 2048),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_papers_types_resolve_on_every_kind_of_layer() -> None:
    found = {name: list(ranks.resolve(LLAMA).values()) for name, ranks in TYPES.items()}
    assert found == {
        "type1": [8, 8, 8],
        "type2": [30, 30, 30],
        "type3": [30, 200, 200],
        "type4": [200, 200, 200],
    }


@pytest.mark.parametrize("name", MIXES)
def test_the_papers_shares_at_its_1613_clients(name: str) -> None:
    mix = build_mix(name)
    counts = mix.counts(1613)
    assert sum(counts.values()) == 1613
    assert all(abs(counts[t] / 1613 - share) < 1 / 1613 for t, share in mix.shares.items())


def test_scale_multiplies_every_rank() -> None:
    mix = build_mix({"type3": 0.5, "own": 0.5}, {"own": {"q_proj": 4, "all": 10}}, scale=0.1)
    assert mix.types["type3"].patterns == (("attention", 3), ("all", 20))
    assert mix.types["own"].patterns == (("q_proj", 1), ("all", 1))


def test_types_may_be_ranks_and_may_redefine_the_papers() -> None:
    mix = build_mix({"type1": 1.0}, {"type1": Ranks.of(5)})
    assert mix == Mix({"type1": Ranks.of(5)}, {"type1": 1.0})


shares = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)


@quick
@given(shares, st.integers(0, 300), st.integers(0, 9))
def test_counts_are_within_one_of_the_quota(parts: list[int], clients: int, seed: int) -> None:
    names = {f"t{i}": part / sum(parts) for i, part in enumerate(parts)}
    mix = Mix({name: Ranks.of(1) for name in names}, names)
    ids = [f"c{i}" for i in range(clients)]
    drawn = draw(mix, ids, generator(seed))
    assert list(drawn) == ids
    for name, share in names.items():
        count = sum(found == name for found in drawn.values())
        assert count == mix.counts(clients)[name]
        assert abs(count - share * clients) < 1 + 1e-9
        assert share > 0 or count == 0


def test_drawing_depends_on_seed_and_set_alone() -> None:
    mix, ids = build_mix("uniform"), [f"c{i}" for i in range(40)]
    first = draw(mix, ids, generator())
    assert draw(mix, ids, generator()) == first
    assert draw(mix, ids[::-1], generator()) == first
    assert draw(mix, ids, generator(1)) != first
    assert draw(mix, [], generator()) == {}


@quick
@given(shares, st.data())
def test_who_has_a_type_keeps_it_and_the_others_make_up_the_shares(
    parts: list[int], data: st.DataObject
) -> None:
    names = {f"t{i}": part / sum(parts) for i, part in enumerate(parts)}
    mix = Mix({name: Ranks.of(1) for name in names}, names)
    ids = [f"c{i}" for i in range(data.draw(st.integers(1, 40)))]
    kinds = st.sampled_from([*names, "rank 64"])
    known = data.draw(st.dictionaries(st.sampled_from(ids), kinds))
    drawn = draw(mix, ids, generator(), {**known, "gone": "t0"})
    assert list(drawn) == ids
    assert {name: drawn[name] for name in known} == known
    of_the_mix = [kind for kind in drawn.values() if kind in names]
    for name, wanted in mix.counts(len(of_the_mix)).items():
        held, found = list(known.values()).count(name), of_the_mix.count(name)
        # More than its share only where they had it before; none is drawn on top.
        assert found <= max(held, wanted)
    assert all(kind in names for name, kind in drawn.items() if name not in known)
    half = {name: kind for name, kind in draw(mix, ids, generator()).items() if name < "c3"}
    assert Counter(draw(mix, ids, generator(1), half).values()) == Counter(
        draw(mix, ids, generator()).values()
    )


def test_every_client_gets_every_type_equally_often() -> None:
    """Chi-square over 2,000 seeds; a draw without shuffle is rejected by the same test."""
    mix, ids = build_mix("uniform"), [f"c{i}" for i in range(8)]

    def statistic(unshuffled: bool) -> float:
        seen = dict.fromkeys(mix.types, 0)
        for seed in range(2000):
            seen[draw(mix, ids, generator(0 if unshuffled else seed))["c0"]] += 1
        return sum((count - 500) ** 2 / 500 for count in seen.values())

    assert statistic(unshuffled=False) < 16.3  # p = 0.001 at 3 degrees of freedom
    assert statistic(unshuffled=True) > 16.3


WRONG = [
    (lambda: build_mix("unifrom"), "mix 'unifrom' is unknown; did you mean 'uniform'?"),
    (lambda: build_mix({"typ1": 1.0}), "client type 'typ1' of the mix is unknown; did you mean"),
    (lambda: build_mix({"type1": 0.5}), "shares of the mix sum to 0.5; change them to sum to 1"),
    (lambda: build_mix({}), "shares of the mix sum to 0"),
    (lambda: build_mix({"type1": 0.5, "type2": -0.5}), "share of client type 'type2' is -0.5"),
    (lambda: build_mix({"type1": math.nan}), "share of client type 'type1' is nan"),
    (lambda: build_mix({"a": 1.0}, {"a": 0}), "rank 0 for 'all' of client type 'a' is below 1"),
    (lambda: build_mix("uniform", scale=0.0), "scale of the mix is 0.0; give a number above 0"),
    (lambda: draw(build_mix("uniform"), ["a", "a"], generator()), "client 'a' is named more than"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)
