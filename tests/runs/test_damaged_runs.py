"""Whatever happens to the files of a run: a reader says so in a sentence, or reads what was there.

Two kinds of change. By accident: digests are as they were, and whoever reads finds the damage, or
reads just what there was. On purpose: digests are made anew, and types are all that protects.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from flexlora.adapters import Adapter
from flexlora.cli.run_view import show_run
from flexlora.engines.memories import Memories
from flexlora.errors import FlexLoRAError
from flexlora.federation import Session
from flexlora.federation import run as play
from flexlora.federation.at_once import read as at_once_of
from flexlora.federation.continuing import Parent
from flexlora.federation.loop import last
from flexlora.federation.observers import started
from flexlora.report.page import page
from flexlora.report.read import read_runs
from flexlora.runs import Standing, load_adapter
from flexlora.runs.overview import overview
from flexlora.runs.results import Result
from flexlora.runs.run_directory import Run
from resealed import reseal
from small import small

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    1e308,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"x": 1},
)
PLAIN = (TypeError, AttributeError, LookupError)
NESTED = "[" * 5000 + "]" * 5000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a parent: it has every file that there is."""
    config = small(
        rule={"name": "flexlora-increment"},
        federation={"rounds": 2},
        evaluation={"predictions": 2, "max_new_tokens": 1},
    )
    folder = tmp_path_factory.mktemp("runs")
    play(config, folder / "parent")
    session = Session.continuing(folder / "parent", overrides=["federation.rounds=4"])
    return session.play(folder / "r").folder


@pytest.fixture(scope="module")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clients remember what is their own."""
    config = small(
        rule={"name": "fedsa"},
        federation={"rounds": 2},
        evaluation={"unseen": False, "on_clients": "off"},
    )
    return play(config, tmp_path_factory.mktemp("personal") / "r").folder


# --- what reads ----------------------------------------------------------------------------------


def exported(folder: Path) -> dict[str, torch.Tensor]:
    adapter: Adapter = load_adapter(folder, 2)
    assert adapter.base == "tiny"
    sides = {"a": lambda f: f.a, "b": lambda f: f.b}
    return {f"{n}.{side}": of(f) for n, f in adapter.items() for side, of in sides.items()}


def resumed(folder: Path) -> int:
    """All that a resume reads before it plays."""
    run = Run.open(folder)
    threads = int(run.resolved["threads"]) if "threads" in run.resolved else 0
    with run.locked():
        stands = last(run)
        at_once_of(run)
        started(run)
        Result.of(run.folder, "x", 0, list[Any](), run.records())
    return threads if stands is None else stands.state.round


def continued(folder: Path) -> int:
    parent = Parent.open(folder, "last")
    parent.config_with({"federation": {"rounds": 9}})
    return parent.state.round


def remembered(folder: Path) -> dict[str, torch.Tensor]:
    """All that the next round or a run that goes on would read of it."""
    memories = Memories(folder / "memory")
    store = Parent.open(folder, "last").store
    found = {client: memories.read(client, round) for client, round in store.answered.items()}
    return {f"{c}.{name}": x for c, memory in found.items() for name, x in memory.items()}


def stood(folder: Path) -> Any:
    standing = Standing.of(Run.open(folder))
    return standing.last, standing.left(), standing.best and standing.best.round


def inspected(folder: Path) -> Any:
    found = overview(folder)
    found.pop("bytes_on_disk")
    return found


def reported(folder: Path) -> Any:
    (found,) = read_runs([folder])
    return found


def shown(folder: Path) -> None:
    """Drawn for people, which takes longer."""
    show_run(overview(folder), Run.open(folder).ended(), everything=True)
    page(read_runs([folder]))


READERS: tuple[Callable[[Path], Any], ...] = (
    exported,
    inspected,
    reported,
    stood,
    continued,
    remembered,
    resumed,  # The last one: it cuts logs back.
)


def read(folder: Path, *first: Callable[[Path], Any]) -> dict[str, Any]:
    """Reader → what it made of the run, or the sentence that it ended in."""
    found: dict[str, Any] = {}
    for reader in (*first, *READERS):
        try:
            found[reader.__name__] = reader(folder)
        except FlexLoRAError as error:
            found[reader.__name__] = error
    errors = [error for error in found.values() if isinstance(error, FlexLoRAError)]
    assert not [error for error in errors if "\n" in str(error)]
    # Whose words are Python's, "tuple index out of range", and tell nobody what is wrong.
    assert not [error for error in errors if isinstance(error.__cause__, PLAIN)]
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and one and isinstance(next(iter(one.values())), torch.Tensor):
        return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    return repr(one) == repr(other)


# --- what happens --------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def by_accident(folder: Path, draw: random.Random) -> str:
    """Of one file: a bit, its end, all of it, or some of its bytes; or it is another one."""
    path = draw.choice(files(folder))
    data = path.read_bytes()
    what = draw.choice(("flip", "flip", "flip", "cut", "gone", "zeros", "swapped", "twice"))
    if what == "gone":
        path.unlink()
    elif what == "swapped":
        path.write_bytes(draw.choice(files(folder)).read_bytes())
    elif data:
        at = draw.randrange(len(data))
        bit = bytes([data[at] ^ 1 << draw.randrange(8)])
        zeros = bytes(min(64, len(data) - at))
        changed = {
            "flip": data[:at] + bit + data[at + 1 :],
            "cut": data[:at],
            "zeros": data[:at] + zeros + data[at + len(zeros) :],
            "twice": data[:at] + data[at // 2 :],
        }
        path.write_bytes(changed[what])
    return f"{what} {path.relative_to(folder)}"


def on_purpose(folder: Path, draw: random.Random) -> str:
    """One entry of a JSON file or line, or of resolved.toml, is gone, or of another type."""
    names = ("*.jsonl", "*.json", "checkpoints/*/meta.json", "resolved.toml")
    path = draw.choice(sorted(p for name in names for p in folder.glob(name)))
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    if not lines:
        return "nothing"
    loads, dumps = (tomllib.loads, as_toml) if path.suffix == ".toml" else (json.loads, json.dumps)
    at = draw.randrange(len(lines))
    document = loads(lines[at])
    place = draw.choice(list(places(document)))
    what = draw.choice(("gone", "odd", "odd", "odd", "nested"))
    change(document, place, what, draw)
    lines[at] = dumps(document).replace('"NESTED"', NESTED)
    path.write_bytes(("\n".join(lines) + "\n").encode(errors="surrogatepass"))
    reseal(folder)
    return f"{what} {path.relative_to(folder)}: {place}"


def as_toml(document: Any) -> str:
    """Of a type that TOML lacks, which is null alone, it gets an entry that is as odd."""
    return tomli_w.dumps(all_but_null(document))


def all_but_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: all_but_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [all_but_null(item) for item in value]
    return "null" if value is None else value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every entry below this one; of a list, of its first and last one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from places(item, (*path, key))
    elif isinstance(value, list) and value:
        for place in {0, len(value) - 1}:
            yield (*path, place)
            yield from places(value[place], (*path, place))


def change(document: Any, place: tuple[Any, ...], what: str, draw: random.Random) -> None:
    *way, last = place
    for step in way:
        document = document[step]
    if what == "gone":
        del document[last]
    else:
        document[last] = "NESTED" if what == "nested" else draw.choice(ODD)


@contextlib.contextmanager
def copied(whole: Path, folder: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(whole, folder))
    shutil.rmtree(folder)


def accidents(whole: Path, folder: Path, seeds: range) -> None:
    with copied(whole, folder / "r") as intact:
        wanted = read(intact)
    assert not [error for error in wanted.values() if isinstance(error, Exception)], wanted
    noticed = 0
    for seed in seeds:
        with copied(whole, folder / "r") as damaged:
            what = by_accident(damaged, random.Random(seed))
            found = read(damaged)
            for name, value in found.items():
                if isinstance(value, FlexLoRAError):
                    noticed += 1
                else:
                    assert same(value, wanted[name]), (seed, what, name)
    assert noticed > len(seeds)


def purposes(whole: Path, folder: Path, seeds: range, *first: Callable[[Path], Any]) -> None:
    for seed in seeds:
        with copied(whole, folder / "r") as changed:
            what = on_purpose(changed, random.Random(seed))
            try:
                read(changed, *first)
            except Exception as error:
                pytest.fail(f"seed {seed}, {what}: {type(error).__name__}: {error}")


def test_an_accident_is_said_or_changes_nothing_that_is_read(whole: Path, tmp_path: Path) -> None:
    accidents(whole, tmp_path, range(80))


def test_no_change_ends_a_reader_unexpectedly(whole: Path, tmp_path: Path) -> None:
    purposes(whole, tmp_path, range(80))


def forgotten(personal: Path, folder: Path, seeds: range) -> None:
    """Accidents of what clients remember, of which nothing is drawn upon unnoticed."""
    with copied(personal, folder / "r") as intact:
        wanted = read(intact)
    assert len(wanted["remembered"]) > 2, wanted
    noticed = 0
    for seed in seeds:
        with copied(personal, folder / "r") as damaged:
            what = by_accident(damaged / "memory", random.Random(seed))
            found = read(damaged)
            noticed += isinstance(found["remembered"], FlexLoRAError)
            for name, value in found.items():
                said = name == "remembered" and isinstance(value, FlexLoRAError)
                assert said or same(value, wanted[name]), (seed, what, name)
    assert noticed > len(seeds) / 3


def test_an_accident_to_what_clients_remember_is_said(personal: Path, tmp_path: Path) -> None:
    forgotten(personal, tmp_path, range(40))


@pytest.mark.soak
def test_many_accidents_to_what_clients_remember(personal: Path, tmp_path: Path) -> None:
    forgotten(personal, tmp_path, range(10_000, 11_000))


@pytest.mark.soak
def test_many_accidents(whole: Path, tmp_path: Path) -> None:
    accidents(whole, tmp_path, range(10_000, 13_000))


@pytest.mark.soak
def test_many_changes(whole: Path, tmp_path: Path) -> None:
    purposes(whole, tmp_path, range(10_000, 16_000), shown)
