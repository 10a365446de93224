"""Every example in exactly one place, whatever the partition; the same seed, the same place."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flexlora.errors import DataError
from flexlora.tasks.clients import Client, as_clients
from flexlora.tasks.jsonl_source import JsonLines
from flexlora.tasks.partition import Partition
from flexlora.tasks.task import Example, Task


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Task, ...]:
    """A few tasks of a few examples, with categories of their own or across tasks."""
    sizes = draw(st.lists(st.integers(1, 15), min_size=1, max_size=5))
    categories = draw(st.sampled_from((1, 2, 4)))
    return tuple(
        Task(
            f"task-{t}",
            tuple(
                Example(f"{t}/{i}", "do", "", (f"r{(t + i) % 3}",), f"c{(t * i) % categories}")
                for i in range(size)
            ),
        )
        for t, size in enumerate(sizes)
    )


@st.composite
def partitions(draw: st.DrawFn) -> Partition:
    by = draw(st.sampled_from(("task", "client", "category", "iid", "dirichlet")))
    options: dict[str, int | float] = {}
    if by in ("iid", "dirichlet") or (by == "category" and draw(st.booleans())):
        options["clients"] = draw(st.integers(1, 8))
    if by == "dirichlet":
        options["alpha"] = draw(st.sampled_from((1e-6, 0.1, 1.0, 1e4)))
    label = draw(st.sampled_from(("category", "response")))
    return Partition(by, label, draw(st.integers(1, 3)), tuple(options.items()))


def everything(clients: tuple[Client, ...]) -> list[str]:
    return sorted(e.id for c in clients for part in (c.train, c.validation, c.test) for e in part)


@settings(max_examples=300)
@given(given_tasks=tasks(), partition=partitions(), seed=st.integers(0, 2**63 - 1))
def test_every_example_is_in_exactly_one_part_of_one_client(
    given_tasks: tuple[Task, ...], partition: Partition, seed: int
) -> None:
    ids = sorted(e.id for task in given_tasks for e in task.examples)
    try:
        dealt, notes = partition.deal(given_tasks, seed)
    except DataError:
        assume(False)
    clients = as_clients(dealt, seed=seed)
    assert everything(clients) == ids
    assert len({client.id for client in clients}) == len(clients)
    options = dict(partition.options)
    assert len(clients) == options.get("clients", len(clients))
    assert min(len(task.examples) for task in dealt) >= partition.min_examples
    assert bool(notes) <= (partition.by == "dirichlet")
    again, _ = partition.deal(given_tasks, seed)
    assert again == dealt


@given(
    given_tasks=tasks().filter(lambda t: sum(len(x.examples) for x in t) >= 12),
    seed=st.integers(0, 2**63 - 1),
)
def test_iid_and_dirichlet_fail_only_for_want_of_examples(
    given_tasks: tuple[Task, ...], seed: int
) -> None:
    total = sum(len(task.examples) for task in given_tasks)
    for clients, least in ((4, 3), (12, 1), (3, 4)):
        for by, more in (("iid", ()), ("dirichlet", (("alpha", 0.05),))):
            partition = Partition(by, "category", least, (("clients", clients), *more))
            dealt, _ = partition.deal(given_tasks, seed)
            assert sum(len(task.examples) for task in dealt) == total


def test_another_seed_deals_otherwise_and_task_order_counts() -> None:
    one = (Task("a", tuple(Example(f"{i}", "do", "", ("r",), f"c{i % 3}") for i in range(30))),)
    for by, more in (("iid", ()), ("dirichlet", (("alpha", 0.5),)), ("category", ())):
        partition = Partition(by, "category", 1, (("clients", 5), *more))
        assert partition.deal(one, 1) == partition.deal(one, 1)
        assert partition.deal(one, 1) != partition.deal(one, 2)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=8, max_size=40),
    way=st.sampled_from(("share", "tasks", "path", "none")),
    by=st.sampled_from(("task", "iid", "dirichlet")),
    limit=st.sampled_from((None, 8, 20)),
    seed=st.integers(0, 1000),
)
def test_what_the_server_keeps_and_what_clients_hold_is_all_that_was_chosen(
    rows: list[tuple[int, int]], way: str, by: str, limit: int | None, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.jsonl" for name in ("rows", "test")}
        for file in files.values():
            file.write_text(
                "".join(
                    json.dumps({"q": f"{i}", "a": "x", "who": f"w{who}", "kind": f"k{kind}"}) + "\n"
                    for i, (who, kind) in enumerate(rows)
                )
            )
        ways: dict[str, dict[str, Any]] = {
            "share": {"test_share": 0.3},
            "tasks": {"unseen_tasks": 1},
            "path": {"test_path": str(files["test"])},
            "none": {},
        }
        source = JsonLines(
            str(files["rows"]),
            prompt="q",
            response="a",
            client="who",
            category="kind",
            examples=limit,
            seed=seed,
            **ways[way],
        )
        try:
            corpus = source.load()
        except DataError:
            assume(way != "tasks")  # there the only client may be the one that is kept unseen
            raise
        assert source.load() == corpus
    options = {"iid": (("clients", 2),), "dirichlet": (("clients", 2), ("alpha", 0.3))}
    assume(sum(len(task.examples) for task in corpus.train) >= 6)
    dealt, _ = Partition(by, "category", 1, options.get(by, ())).deal(corpus.train, seed)
    clients = as_clients(dealt, seed=seed)
    unseen = as_clients(corpus.unseen, seed=seed, unseen=True)
    chosen = len(rows) if limit is None else min(limit, len(rows))
    held = Counter(everything(clients) + everything(unseen))
    assert set(held.values()) == {1}
    assert len(held) == chosen + (len(rows) if way == "path" else 0)
    assert not {c.id for c in clients} & {c.id for c in unseen}
