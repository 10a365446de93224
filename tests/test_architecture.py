"""The floors: each folder imports from lower floors only; heavy imports stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "flexlora"

# In order: a folder may import from any folder before it, and from itself.
ORDER = [
    "errors",
    "extras",
    "options",
    "registry",
    "seeds",
    "shortage",
    "lowrank",
    "adapters",
    "hooks",
    "rules",
    "laws",
    "screens",
    "allocation",
    "partition",
    "formats",
    "merging",
    "tasks",
    "models",
    "training",
    "evaluation",
    "config",
    "runs",
    "engines",
    "planning",
    "federation",
    "flower",
    "report",
    "comparing",
    "watching",
    "cli",
]
# What the order alone would allow: neither knows the other, and a report knows run directories.
BANS = {
    "runs": {"engines"},
    "engines": {"runs"},
    "report": {"engines", "federation", "flower"},
    "comparing": {"flower"},
    "watching": {"engines", "federation", "flower"},
}
# Floors 0 and 1: torch, numpy and jaxtyping alone, and no I/O.
PURE = set(ORDER[: ORDER.index("formats")])
PURE_IMPORTS = {"torch", "numpy", "jaxtyping", "flexlora"}
IO_MODULES = {"os", "io", "pathlib", "shutil", "logging", "subprocess", "socket", "tempfile"}

IO_CALLS = {"open", "print", "input", "breakpoint"}


def imports(file: Path) -> set[str]:
    """All modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found.add(node.module or "")
    return found


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def folder(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(of: Mapping[str, str], lazy: Mapping[str, str] | None = None) -> dict[str, set[str]]:
    """Module → those of these modules that its text imports anywhere: in functions and for types.

    What `from package import name` takes is the module of that name, or the one that the package
    loads the name from on first use (lazy: "package.name" → module), or else the package; and
    what `import package` takes is everything of it that is then asked for, `package.name`.
    """
    homes = lazy or {}
    found: dict[str, set[str]] = {}
    for module, text in of.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                named |= {x if x in of else homes.get(x, str(node.module)) for x in inner}
            elif isinstance(node, ast.Attribute):
                asked = ast.unparse(node)
                named |= {asked if asked in of else homes.get(asked, "")}
        found[module] = (named & of.keys()) - {module}
    return found


def lazy_names() -> dict[str, str]:
    """Where the package's own names come from, which load on first use."""
    import flexlora

    return {f"flexlora.{name}": home for home, names in flexlora._HOMES.items() for name in names}


def above(edges: Mapping[str, set[str]], order: Sequence[str]) -> list[str]:
    """Imports of a higher floor, in words."""
    # Nothing imports `python -m flexlora`, which is the command line.
    places = {name: place for place, name in enumerate([*order, "__main__"])}
    return [
        f"{module} imports {name}"
        for module, imported in edges.items()
        for name in imported
        if "." in module
        and "." in name
        and places[name.split(".")[1]] > places[module.split(".")[1]]
    ]


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The names on one circle, the first again at the end; [] where there is none."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for name in sorted(edges[path[-1]]):
            if name in path:
                return [*path[path.index(name) :], name]
            if name not in done and (found := follow([*path, name])):
                return found
        done.add(path[-1])
        return []

    return next((found for name in sorted(edges) if (found := follow([name]))), [])


def by_folder(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between folders; the package itself, whose names load on first use, is none."""
    found: dict[str, set[str]] = {}
    for module, imported in edges.items():
        if "." in module:
            mine = module.split(".")[1]
            theirs = {name.split(".")[1] for name in imported if "." in name}
            found.setdefault(mine, set()).update(theirs - {mine})
    return found


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    return graph({module_of(file): file.read_text() for file in files()}, lazy_names())


def test_imports_come_from_lower_floors(edges: dict[str, set[str]]) -> None:
    assert above(edges, ORDER) == []


def test_an_import_of_a_higher_floor_is_found_in_every_form() -> None:
    """Also of a name that the package itself gives, and of what its attributes lead to."""
    forms = (
        "from p.high.deep import x",
        "from p.high import deep",
        "from p import high",
        "import p.high.deep",
        "def f():\n    from p import Name",
        "import p\n\ndef f():\n    return p.Name",
        "import p\n\ndef f():\n    return p.high.deep.x",
    )
    for form in forms:
        made = {"p": "", "p.low": form, "p.high": "", "p.high.deep": "from p import low"}
        found = above(graph(made, {"p.Name": "p.high.deep"}), ["low", "high"])
        assert found, form
        assert all(words.startswith("p.low imports p.high") for words in found)


def test_no_folder_imports_what_it_must_not_know(edges: dict[str, set[str]]) -> None:
    for module, imported in edges.items():
        banned = BANS.get(module.split(".")[1], set()) if "." in module else set()
        for name in imported:
            assert name.split(".")[1:2] == [] or name.split(".")[1] not in banned, (
                f"{module} imports {name}"
            )


def test_no_modules_import_each_other_in_a_circle(edges: dict[str, set[str]]) -> None:
    found = circle(edges)
    assert not found, " imports ".join(found)


def test_no_folders_import_each_other_in_a_circle(edges: dict[str, set[str]]) -> None:
    found = circle(by_folder(edges))
    assert not found, " imports ".join(found)


def test_a_circle_is_found_and_named() -> None:
    """Through a function's import, an import for types, and a package; and none where none is."""
    made = {
        "p": "",
        "p.a": "def f():\n    from p.b import x",
        "p.b": "if TYPE_CHECKING:\n    from p.sub import deep",
        "p.sub": "",
        "p.sub.deep": "import p.a",
        "p.out": "import os\nfrom p import a",
    }
    edges = graph(made)
    assert circle(edges) == ["p.a", "p.b", "p.sub.deep", "p.a"]
    assert circle(by_folder(edges)) == ["a", "b", "sub", "a"]
    without = graph({**made, "p.b": "import p.sub"})
    assert without["p.b"] == {"p.sub"}
    assert circle(without) == []


@pytest.mark.parametrize(
    "file",
    [f for f in files() if folder(f) in PURE],
    ids=lambda f: str(f.relative_to(SOURCE)),
)
def test_floors_0_and_1_are_pure(file: Path) -> None:
    for module in imports(file):
        top = module.split(".")[0]
        assert top in PURE_IMPORTS or top in sys.stdlib_module_names, f"{file} imports {module}"
        assert top not in IO_MODULES, f"{file} does I/O through {module}"
    calls = [x.func for x in ast.walk(ast.parse(file.read_text())) if isinstance(x, ast.Call)]
    named = {x.id for x in calls if isinstance(x, ast.Name)}
    assert not named & IO_CALLS, f"{file} does I/O: {named & IO_CALLS}"


def test_every_folder_has_a_floor() -> None:
    assert {folder(f) for f in files()} - {"__init__", "__main__"} == set(ORDER)


def test_flower_is_imported_in_one_folder_alone_and_there_in_few_files() -> None:
    touching = {f for f in files() if any(x.split(".")[0] == "flwr" for x in imports(f))}
    names = ("client_app", "content", "knock", "link", "messages", "node", "server_app")
    assert touching == {SOURCE / "flower" / f"{name}.py" for name in names}


def test_a_clients_command_and_trainer_load_no_flower_of_others() -> None:
    script = (
        "import sys, flexlora.flower.trainer, flexlora.flower.playing, flexlora.flower.beside;"
        "import flexlora.flower.trial, flexlora.flower.checking, flexlora.flower.deployment;"
        "assert 'flwr' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(SOURCE.parent)}
    )


def test_no_pickle_and_no_global_random_numbers() -> None:
    for file in files():
        text = file.read_text()
        assert "pickle" not in imports(file), file
        assert "torch.manual_seed" not in text, file
        assert "torch.load(" not in text, file


def test_the_command_line_prints_through_one_door() -> None:
    """`cli/console.py`, where what is hidden in others' names is made visible."""
    for file in files():
        if folder(file) != "cli" or file.name == "console.py":
            continue
        calls = [x for x in ast.walk(ast.parse(file.read_text())) if isinstance(x, ast.Call)]
        named = {x.func.id for x in calls if isinstance(x.func, ast.Name)}
        assert not named & {"print", "Console"}, file
        written = {ast.unparse(x.func) for x in calls}
        doors = {"sys.stdout.write", "sys.stderr.write", "typer.echo", "click.echo"}
        assert not written & doors, file


def test_help_loads_no_model_code() -> None:
    script = (
        "import sys; from flexlora.cli.commands import app; import typer.testing as t;"
        "r = t.CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "assert 'resume' in r.output;"
        "heavy = {'torch', 'transformers', 'flwr', 'peft', 'numpy', 'starlette', 'uvicorn'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": str(SOURCE.parent)}
    )


def test_waiting_threads_of_the_command_line_do_not_spin() -> None:
    """Torch's OpenMP reads this when it is loaded; what the user set stays."""
    script = (
        "import os, sys; from flexlora.cli.main import main; sys.argv = ['flexlora', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules\nprint(os.environ['OMP_WAIT_POLICY'])"
    )
    for given, wanted in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(SOURCE.parent), **given},
        )
        assert done.stdout.splitlines()[-1] == wanted


def test_public_names_are_pinned() -> None:
    import flexlora

    assert sorted(flexlora.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(flexlora, name) is not None


PUBLIC = [
    "About",
    "AdaptedModel",
    "Adapter",
    "Config",
    "Factors",
    "LowRank",
    "Merged",
    "Mix",
    "RULES",
    "Ranks",
    "Result",
    "Rule",
    "Session",
    "Setup",
    "continue_run",
    "hold_rows",
    "load_adapter",
    "load_config",
    "load_model",
    "load_peft",
    "make_config",
    "make_rule",
    "merge",
    "prepare",
    "register",
    "resume",
    "run",
    "save_merged",
    "save_peft",
    "score_model",
    "svd",
]
