"""README.md as a reader follows it: every python block runs as it stands, in an empty folder.

A toml block after `<!-- file: NAME -->` is written under that name, and a sh block after
`<!-- run -->` is run; all in the order of the page, in one folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexlora.federation.config_file import parse_config

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(
    r"(?:<!--\s*(?P<mark>run|file:\s*\S+)\s*-->\s*\n)?```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what the comment before it says, its text."""

    kind: str
    mark: str
    text: str


def blocks(page: str) -> list[Block]:
    found = _BLOCK.finditer(page)
    return [Block(m["kind"], m["mark"] or "", m["text"]) for m in found]


def execute(command: list[str], folder: Path) -> None:
    """Run in the folder, with the commands of this environment first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    said = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, f"{command[-1]}\n{said}"


def follow(page: str, folder: Path) -> list[str]:
    """Do what the page says; the kinds of the blocks that were run or written, in order."""
    done = []
    for block in blocks(page):
        if block.kind == "python":
            execute([sys.executable, "-c", block.text], folder)
        elif block.kind == "toml" and block.mark.startswith("file:"):
            (folder / block.mark.removeprefix("file:").strip()).write_text(block.text)
        elif block.kind == "sh" and block.mark == "run":
            execute(["sh", "-e", "-c", block.text], folder)
        else:
            continue
        done.append(block.kind)
    return done


def test_the_readme_runs_as_it_stands(tmp_path: Path):
    done = follow(README.read_text(encoding="utf-8"), tmp_path)
    assert "python" in done, "README.md has no python block"


def test_toml_blocks_of_the_readme_are_configs():
    for block in blocks(README.read_text(encoding="utf-8")):
        if block.kind == "toml":
            parse_config(tomllib.loads(block.text))


PAGE = """
<!-- file: c.toml -->
```toml
x = 1
```

```python
assert open("c.toml").read() == "x = 1\\n"
open("made", "w").close()
```

<!-- run -->
```sh
test -f made
echo done > also
```

```sh
exit 1  # not marked: only shown
```
"""


def test_following_a_page(tmp_path: Path):
    assert follow(PAGE, tmp_path) == ["toml", "python", "sh"]
    assert (tmp_path / "also").read_text() == "done\n"


@pytest.mark.parametrize("wrong", ["```python\n1/0\n```\n", "<!-- run -->\n```sh\nfalse\n```\n"])
def test_a_block_that_fails_is_seen(tmp_path: Path, wrong: str):
    with pytest.raises(AssertionError):
        follow(wrong, tmp_path)
