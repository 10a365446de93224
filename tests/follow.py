"""Pages as a reader follows them: what they say is done, block by block, in one empty folder.

Every fenced block of sh, python or toml is one of these; a page with another one fails.
- sh and python are run as they stand.
- toml is held to be a config, strictly.
- After `<!-- file: NAME -->` a block of any language is written under that name instead.
- After `<!-- shown: REASON -->` a block is only shown; the reason says why it cannot run here.
A text block after `<!-- output -->` holds lines that the block before it printed; a line "…" stands
for others. With `<!-- output: numbers differ -->` their numbers are no part of the comparison.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from flexlora.config.config_file import parse_config
from warm import Warm

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"(?:^<!--[ ]*(?P<mark>\w+)(?::[ ]*(?P<word>[^\n]*?))?[ ]*-->[ ]*\n)?"
    r"^(?P<fence>```+)(?P<kind>[\w{}-]*)[^\n]*\n(?P<text>.*?)^(?P=fence)[ ]*$",
    re.DOTALL | re.MULTILINE,
)
_RUNNABLE = {"sh", "python", "toml"}
_PROMISING = _RUNNABLE | {"bash", "shell", "console", "py"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the mark before it and what follows the mark, its text."""

    kind: str
    mark: str
    word: str
    text: str


def blocks(page: str) -> list[Block]:
    found = _BLOCK.finditer(page)
    return [Block(m["kind"], m["mark"] or "", m["word"] or "", m["text"]) for m in found]


def follow(page: str, folder: Path, warm: Warm) -> list[str]:
    """Do what the page says; what was done, in order: "file", "shown", "output" or the language.

    Raises AssertionError for a block that fails, or of which nobody can tell what it is for.
    """
    done: list[str] = []
    printed = ""
    for block in blocks(page):
        if block.mark == "shown":
            assert len(block.word.split()) > 2, f"say why this cannot run:\n{block.text}"
            done.append("shown")
        elif block.mark == "file":
            target = folder / block.word
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
            done.append("file")
        elif block.mark == "output":
            _require_printed(block.text, printed, exactly=not block.word)
            done.append("output")
        elif block.kind == "toml":
            parse_config(tomllib.loads(block.text))
            done.append("toml")
        elif block.kind == "python":
            script = folder / ".block.py"
            script.write_text(block.text, encoding="utf-8")
            printed = _execute(["python", script.name], block, folder, warm)
            script.unlink()
            done.append("python")
        elif block.kind == "sh":
            printed = _execute(["sh", "-e", "-c", block.text], block, folder, warm)
            done.append("sh")
        else:
            assert block.kind not in _PROMISING, f"sh, not {block.kind}, is run:\n{block.text}"
            assert not block.mark, f"unknown mark {block.mark!r} before:\n{block.text}"
    return done


def _execute(command: list[str], block: Block, folder: Path, warm: Warm) -> str:
    environment = {
        **os.environ,
        **warm.environment,
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
        "FLEXLORA": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    said = f"{done.stdout[-3000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, f"{block.text}\n{said}"
    return done.stdout + done.stderr


def _require_printed(shown: str, printed: str, *, exactly: bool) -> None:
    """Hold every line of the page to one that was printed, but for blanks and rules."""
    lines = {_plain(line, exactly) for line in printed.splitlines()}
    for line in shown.splitlines():
        if line.strip() not in ("", "…"):
            held = _plain(line, exactly) in lines
            assert held, f"the page shows\n{line}\nwhich is not in\n{printed}"


def _plain(line: str, exactly: bool) -> str:
    """The line without what depends on the width of its numbers, or without those, too."""
    words = " ".join(re.sub("[─━]", "", line).split())
    return words if exactly else re.sub(r"[\d.,]+", "#", words)
