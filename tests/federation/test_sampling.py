"""How many clients a round has, and which."""

import pytest
import torch

from flexlora.config.schedule import clients_per_round
from flexlora.errors import ConfigError
from flexlora.federation.sampling import sample


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
