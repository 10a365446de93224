"""What cells of one comparison were not played alike: versions, commits, processors, inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexlora.comparing.cells import Cell
from flexlora.comparing.inputs import differing
from flexlora.runs.run_directory import Run

Unlike = Mapping[str, Mapping[str, int]]
"""What was not alike (an entry of environment.json, or an input) → its value in words → how many
cells have it."""

# What can change a number; the rest (the kernel's name, how many cores there are) cannot.
_COUNTS = (
    *("flexlora", "commit", "python", "torch", "transformers", "safetensors", "machine"),
    *("cpu", "cpu_capability", "widens_bfloat16", "threads", "cuda", "gpus"),
)


def unlike(cells: Sequence[Cell]) -> dict[str, dict[str, int]]:
    """Of what can change a number, all in which these cells differ.

    What they were played on comes first. Raises RunError for a cell whose environment cannot be
    read.
    """
    found: dict[str, dict[str, int]] = {key: {} for key in _COUNTS}
    played_on = []
    for cell in cells:
        if cell.config is None:  # The base model's numbers are of another arm's run.
            continue
        run = Run.open(cell.folder)
        with run.undamaged("environment.json"):
            noted = run.environment
        played_on.append((run.config, run.data, run.parent))
        for key in _COUNTS:
            told = _words(key, noted.get(key))
            found[key][told] = found[key].get(told, 0) + 1
    return {
        **differing(played_on),
        **{key: values for key, values in found.items() if len(values) > 1},
    }


def _words(key: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if key == "commit" and isinstance(value, str):
        return value[:10] + value[40:]  # With the "+" of changes on top.
    return "none" if value is None else str(value)
