"""The command line in process, as `flexlora …` runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from flexlora.cli.main import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Flexlora = Callable[..., Done]
# To be run in a process of its own, with arguments behind it.
PROCESS = (sys.executable, "-c", "from flexlora.cli.main import main; main()")


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    def flexlora(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["flexlora", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        code = stop.value.code
        return Done(0 if code is None else int(code), captured.out, captured.err)

    return flexlora


def assert_one_sentence(done: Done, *fragments: str) -> None:
    """Exit code 2, and on stderr one line from flexlora that holds all of these."""
    assert done.code == 2, done
    assert done.err.startswith("flexlora: "), done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.endswith("\n")
    assert "Traceback" not in done.err + done.out
    assert "unexpected" not in done.err
    for fragment in fragments:
        assert fragment in done.err, (fragment, done.err)
