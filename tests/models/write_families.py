"""Write the tables of docs/reference/families.md anew, with src and tests on PYTHONPATH."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from models.tried import PAGE, table

if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        works, refused = table(Path(folder))
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    kept = [x for x in lines if not x.startswith("| `")]
    rules = [i for i, x in enumerate(kept) if x.startswith("|---")]
    first, second = (kept[: rules[0] + 1], kept[rules[0] + 1 : rules[1] + 1])
    PAGE.write_text(
        "\n".join(chain(first, works, second, refused, kept[rules[1] + 1 :])) + "\n",
        encoding="utf-8",
    )
