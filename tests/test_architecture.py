"""The floors: each folder imports from lower floors only; heavy imports stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "flexlora"

# In order: a folder may import from any folder before it, and from itself.
ORDER = [
    "errors",
    "lowrank",
    "adapters",
    "rules",
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
    "federation",
    "report",
    "cli",
]
# Floors 0 and 1: torch, numpy and jaxtyping alone, and no I/O.
PURE = {"lowrank", "adapters", "rules", "screens", "allocation", "partition"}
PURE_IMPORTS = {"torch", "numpy", "jaxtyping", "flexlora"}
IO_MODULES = {"os", "io", "pathlib", "shutil", "logging", "subprocess", "socket", "tempfile"}


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


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_come_from_lower_floors(file: Path) -> None:
    if folder(file) == "__init__":
        return
    allowed = ORDER[: ORDER.index(folder(file)) + 1]
    for module in imports(file):
        if module.startswith("flexlora."):
            assert module.split(".")[1] in allowed, f"{file} imports {module}"


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


def test_every_folder_has_a_floor() -> None:
    assert {folder(f) for f in files()} - {"__init__"} == set(ORDER)


def test_no_pickle_and_no_global_random_numbers() -> None:
    for file in files():
        text = file.read_text()
        assert "pickle" not in imports(file), file
        assert "torch.manual_seed" not in text, file
        assert "torch.load(" not in text, file


def test_help_loads_no_model_code() -> None:
    script = (
        "import sys; from flexlora.cli.main import app; import typer.testing as t;"
        "r = t.CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "assert 'resume' in r.output;"
        "heavy = {'torch', 'transformers', 'flwr', 'peft', 'numpy'} & set(sys.modules);"
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
    "continue_run",
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
    "save_peft",
    "score_model",
    "svd",
]
