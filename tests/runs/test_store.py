"""What is kept of the clients comes back the same, and names nothing twice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flexlora.adapters import LayerSpec
from flexlora.config.config import Config
from flexlora.formats.json_text import json_text
from flexlora.rules import Spec, make_rule
from flexlora.runs.packed_state import pack
from flexlora.runs.progress import Progress
from flexlora.runs.run_directory import Run
from flexlora.runs.store import ClientStore
from reference import generator

NAMES = [f"model.layers.{i // 7}.self_attn.module_{i % 7}_proj" for i in range(168)]
# As long as most names of tasks in Natural Instructions.
CLIENTS = [f"task{i:04d}_some_dataset_question_answer_generation" for i in range(1613)]
TYPES = {"phone": 8, "tablet": 16, "laptop": 30, "desktop": 64, "server": 200}


def store(ranks: dict[str, dict[str, int]]) -> ClientStore:
    kinds = {client: list(TYPES)[i % 5] for i, client in enumerate(CLIENTS)}
    held = {client: i % 40 for i, client in enumerate(CLIENTS) if i % 3}
    return ClientStore(kinds, ranks, held)


def by_type() -> dict[str, dict[str, int]]:
    ranks = list(TYPES.values())
    return {client: dict.fromkeys(NAMES, ranks[i % 5]) for i, client in enumerate(CLIENTS)}


def pruned() -> dict[str, dict[str, int]]:
    draw = random.Random(0)
    return {client: {name: draw.randint(1, 200) for name in NAMES} for client in CLIENTS}


def back(given: ClientStore) -> ClientStore:
    return ClientStore.from_json(json.loads(json_text(given.to_json(), strict=True)))


def test_the_metadata_of_1613_clients_of_168_layers_is_below_half_a_megabyte(
    tmp_path: Path,
) -> None:
    made = store(by_type())
    spec = Spec.of([LayerSpec(name, 2048, 2048) for name in NAMES], list(made.ranks.values()))
    _, state = pack(make_rule("flexlora").init(spec, generator(0)))
    meta = {"state": state, "store": made.to_json(), "progress": Progress().to_json()}
    run = Run.create(Config(), tmp_path / "r")
    run.write_checkpoint(1, {}, meta)
    written = (tmp_path / "r" / "checkpoints" / "round-0001" / "meta.json").stat().st_size
    assert written < 500_000
    kept = run.load_checkpoint(1)
    assert kept is not None
    assert ClientStore.from_json(kept[1]["store"]) == made


@pytest.mark.parametrize("ranks", [by_type, pruned])
def test_a_store_comes_back_with_its_layers_in_order(
    ranks: Callable[[], dict[str, dict[str, int]]],
) -> None:
    made = store(ranks())
    again = back(made)
    assert again == made
    for client in (CLIENTS[0], CLIENTS[1], CLIENTS[-1]):
        assert list(again.ranks[client].items()) == list(made.ranks[client].items())
    assert len({id(table) for table in again.ranks.values()}) == len(
        {tuple(table.items()) for table in made.ranks.values()}
    )


def test_layers_may_differ_by_client_in_number_and_order() -> None:
    ranks = {"a": {"x": 1, "y": 2}, "b": {"y": 2, "x": 1}, "c": {"x": 1}, "d": {}}
    made = ClientStore(dict.fromkeys(ranks, "any"), ranks, {"c": 0})
    again = back(made)
    assert again == made
    assert [list(table) for table in again.ranks.values()] == [list(t) for t in ranks.values()]
    assert again.held == {"c": 0}
    assert "answered" not in made.to_json()  # Of a rule whose clients remember nothing.
    assert not {"failed", "resting"} & made.to_json().keys()
    made.answered["b"] = 7
    made.failed["c"] = 2
    made.resting["a"] = 9
    assert "within" not in made.to_json()
    made.within["b"] = {"y": 1, "x": 1}
    assert back(made) == made
    assert back(ClientStore({}, {})) == ClientStore({}, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held": [-1]}, "held is -1, expected 0 or more"),
        ({"types": [1]}, "types is 1, expected less than 1"),
        ({"ranks": []}, "ranks has 0 entries for 1 clients"),
        ({"held": None}, "held is None, expected a list"),
        ({"patterns": [[]]}, "patterns has an empty one"),
        ({"patterns": [[0]]}, "one of patterns has 0 entries for 1 layers"),
        ({"patterns": [[2, 1]]}, "patterns is 2, expected less than 1"),
        ({"patterns": [7]}, "patterns is 7, expected a list"),
        ({"layouts": 3}, "layouts is 3, expected a list"),
        ({"answered": [0]}, "answered is 0, expected 1 or more"),
        ({"within": [7]}, "within is 7, expected less than 1"),
        ({"resting": [0]}, "resting is 0, expected 1 or more"),
        ({"failed": ["x"]}, "failed is 'x', expected a whole number"),
        ({"types": ["x" * 99]}, f"types is '{'x' * 58}…, expected a whole number"),
        ({"ranks": [True]}, "ranks is True, expected a whole number"),
        ({"patterns": [[0, 0]]}, "patterns is 0, expected 1 or more"),
        ({"patterns": [[-1, 1]]}, "patterns is -1, expected 0 or more"),
    ],
)
def test_a_wrong_entry_is_named_with_what_it_is(change: dict[str, object], words: str) -> None:
    made = ClientStore({"a": "any"}, {"a": {"x": 1}}).to_json()
    with pytest.raises(ValueError, match=re.escape(words)):
        ClientStore.from_json(made | change)
