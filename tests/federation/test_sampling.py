"""How many clients a round has, and which."""

from typing import Any

import pytest
import torch

from flexlora.config.schedule import Schedule, clients_per_round
from flexlora.errors import ConfigError
from flexlora.federation.sampling import drawn, sample
from flexlora.federation.streams import Streams
from flexlora.runs.store import ClientStore
from flexlora.training import Recipe


@pytest.mark.parametrize(
    ("amount", "clients", "count"),
    [
        (3, 10, 3),
        (10, 10, 10),
        (0.05, 10, 1),
        (0.001, 10, 1),
        (0.25, 10, 2),
        (0.05, 1613, 80),
        (0.3, 10, 3),
        (0.1, 30, 3),
        (0.07, 100, 7),
        (0.29, 100, 29),
        (1.0, 7, 7),
        (1, 7, 1),
    ],
)
def test_counts_and_shares(amount: float, clients: int, count: int) -> None:
    assert clients_per_round(amount, clients) == count


def test_a_share_is_rounded_down_to_at_least_one() -> None:
    for clients in (1, 3, 7, 100, 1613):
        for percent in range(1, 101):
            exact = max(1, percent * clients // 100)
            assert clients_per_round(percent / 100, clients) == exact, (percent, clients)


def test_more_clients_than_there_are() -> None:
    with pytest.raises(ConfigError, match="clients_per_round is 8 but there are 7 clients; lower"):
        clients_per_round(8, 7)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_distinct_sorted_and_does_not_depend_on_the_order_given() -> None:
    clients = [f"c{i}" for i in range(12)]
    chosen = sample(clients, 5, generator(1))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 5
    assert sample(clients[::-1], 5, generator(1)) == chosen
    assert sample(clients, 12, generator(1)) == sorted(clients)


def test_clients_are_drawn_uniformly() -> None:
    clients = [f"c{i}" for i in range(6)]
    counts = dict.fromkeys(clients, 0)
    for seed in range(1200):
        for client in sample(clients, 2, generator(seed)):
            counts[client] += 1
    # 400 each, with a standard deviation of √(1200 · ⅓ · ⅔) = 16.3; five of them.
    assert all(abs(count - 400) < 82 for count in counts.values()), counts
    assert len({tuple(sample(clients, 2, generator(seed))) for seed in range(1200)}) == 15


CLIENTS = [f"c{i}" for i in range(9)]


def ask(attempt: int = 1, before: tuple[str, ...] = (), **changes: Any) -> list[str]:
    resting = changes.pop("resting", {})
    made = Schedule(**{"rounds": 9, "clients": 4, "recipe": Recipe("adamw", 0.8, 4), **changes})
    store = ClientStore(dict.fromkeys(CLIENTS, "any"), {x: {} for x in CLIENTS}, resting=resting)
    return drawn(Streams(0), made, store, 3, attempt, before)


def test_more_are_asked_without_a_change_of_who_comes_first() -> None:
    plain = ask()
    assert sorted(plain) == sample(CLIENTS, 4, Streams(0).generator("sample", 3))
    assert ask(over_sample=1.5)[:4] == plain
    assert len(ask(over_sample=1.5)) == 6
    assert len(ask(over_sample=1.1)) == 5
    assert len(ask(over_sample=50.0)) == 9


def test_another_attempt_asks_others_first() -> None:
    first = tuple(ask())
    second = ask(2, first)
    assert not set(first) & set(second)
    assert second == ask(2, first)
    third = ask(3, (*first, *second))
    assert len(set(third) - {*first, *second}) == 1
    assert third[0] not in {*first, *second}


def test_who_rests_is_asked_where_there_would_be_too_few() -> None:
    resting = {client: 20 - i for i, client in enumerate(CLIENTS[:6])}
    awake = set(CLIENTS[6:])
    assert set(ask(resting=resting)) == awake
    needy = ask(resting=resting, min_clients=4)
    assert (set(needy[:3]), needy[3:]) == (awake, ["c5"])
    assert ask(2, tuple(awake), resting=resting)[3:] == ["c5"]
    assert ask(resting=dict.fromkeys(CLIENTS, 5)) == ["c0"]


def test_the_quorum() -> None:
    made = Schedule(rounds=1, clients=8, recipe=Recipe("adamw", 0.8, 4), min_clients=2)
    assert made.quorum(8) == 2
    shared = Schedule(rounds=1, clients=8, recipe=Recipe("adamw", 0.8, 4), min_share=0.7)
    assert [shared.quorum(asked) for asked in (1, 2, 8, 10, 12)] == [1, 2, 6, 7, 8]
