from __future__ import annotations

from typing import Any

import pytest

from flexlora.errors import DataError
from flexlora.tasks.clients import as_clients
from flexlora.tasks.task import Example, Task


def task(name: str, count: int) -> Task:
    return Task(
        name, tuple(Example(f"{name}-{i}", "do", f"in {i}", (f"out {i}",)) for i in range(count))
    )


def test_a_task_becomes_a_client_with_three_disjoint_parts() -> None:
    (client,) = as_clients([task("a", 50)], seed=1)
    assert client.id == "a"
    parts = [client.train, client.validation, client.test]
    assert [len(part) for part in parts] == [40, 5, 5]
    assert {e for part in parts for e in part} == set(task("a", 50).examples)
    assert client.task("test") == Task("a", client.test)


@pytest.mark.parametrize(("options", "count"), [({"share": 0.1}, 20), ({"limit": 7}, 7)])
def test_sampling_by_share_and_by_limit(options: dict[str, Any], count: int) -> None:
    (client,) = as_clients([task("a", 200)], seed=1, **options)
    assert len(client.train + client.validation + client.test) == count


def test_a_client_depends_on_seed_and_name_alone() -> None:
    alone = as_clients([task("b", 100)], share=0.3, seed=5)[0]
    among = as_clients([task("a", 9), task("b", 100), task("c", 3)], share=0.3, seed=5)
    assert among[1] == alone
    assert [client.id for client in among] == ["a", "b", "c"]
    assert as_clients([task("b", 100)], share=0.3, seed=6)[0] != alone


def test_unseen_tasks_have_test_examples_only() -> None:
    (client,) = as_clients([task("a", 60)], limit=25, seed=1, unseen=True)
    assert (client.train, client.validation, len(client.test)) == ((), (), 25)


def test_the_smallest_client_still_trains() -> None:
    (client,) = as_clients([task("a", 1)], share=0.1, seed=1)
    assert [len(p) for p in (client.train, client.validation, client.test)] == [1, 0, 0]


def test_empty_and_repeated_tasks_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="task 'empty' has no examples"):
        as_clients([task("a", 3), task("empty", 0)], seed=1)
    with pytest.raises(DataError, match="task 'a' comes twice"):
        as_clients([task("a", 3), task("a", 4)], seed=1)
