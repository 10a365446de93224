"""Plays the runs of same_bits.py with the source of any version, in processes of their own.

Only through what is public: the command line, a few names of the package, and run directories.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from same_bits_digests import Fingerprint, fingerprint
from same_bits_model import write_wide_model
from same_bits_runs import RUNS, WIDE_MODEL, Run

RANKS = ("full", "3")  # Of the exports; 3 is between the lowest and the highest of the clients.
_KILLED_AFTER = 2  # Rounds.
_COMMAND = "from flexlora.cli.main import main; main()"
_GIVEN = "import json, pathlib, sys, flexlora; given = json.loads(sys.argv[1])\n"
_RUN = "flexlora.run(flexlora.make_config(**given['tables']), given['folder'])"
_CONTINUE = "flexlora.continue_run(given['parent'], given['tables'], given['folder'])"
_EXPORT = """
found = pathlib.Path(flexlora.__file__).parents[1]
if found != pathlib.Path(given["source"]):
    sys.exit(f"{found} was played instead of {given['source']}")
for rank, out in given["exports"].items():
    flexlora.save_peft(flexlora.load_adapter(given["folder"], rank), out)
"""


class PlayError(Exception):
    """A run that could not be played, with its last words."""


@dataclass(frozen=True)
class Player:
    """source: the folder that holds the package; scratch: where runs are written."""

    source: Path
    scratch: Path

    def play(self, name: str) -> Fingerprint:
        """Play this run, after those that it needs. Raises PlayError."""
        run, folder = RUNS[name], self._folder(name)
        if run.of and not self._folder(run.of).is_dir():
            raise PlayError(f"it needs {run.of}, which failed")
        folder.parent.mkdir()
        if run.how == "continued":
            self._command("continue", self._folder(run.of), "--out", folder, *_settings(run))
        elif run.how == "continued in python":
            self._python(_CONTINUE, parent=self._folder(run.of), tables=run.tables, folder=folder)
        elif run.how == "python":
            self._python(_RUN, tables=run.tables, folder=folder)
        else:
            config = self._config(run, folder.parent)
            if run.how == "killed":
                self._kill(config, folder)
                self._command("resume", folder)
            else:
                self._command("run", config, "--out", folder)
        exports = {rank: folder.parent / f"rank {rank}" for rank in RANKS}
        self._python(_EXPORT, source=self.source, folder=folder, exports=exports)
        try:
            return fingerprint(folder, exports.values())
        except (OSError, ValueError, KeyError) as error:
            raise PlayError(f"what it left is not as expected: {error!r}") from error

    def _folder(self, name: str) -> Path:
        return self.scratch / name / "run"

    def _config(self, run: Run, folder: Path) -> Path:
        """The run's config as a file; the adapter that it begins from is exported first."""
        tables = {name: dict(table) for name, table in run.tables.items()}
        if tables["model"]["name"] == WIDE_MODEL:
            wide = self.scratch / WIDE_MODEL
            tables["model"]["name"] = str(wide if wide.is_dir() else write_wide_model(wide))
        if run.how == "from run":
            tables["model"]["init_from"] = str(self._folder(run.of))
        if run.how == "from adapter":
            start = folder / "start"
            self._command("export", self._folder(run.of), "--rank", "full", "--out", start)
            tables["model"]["init_from"] = str(start)
        config = folder / "config.toml"
        config.write_text(tomli_w.dumps(tables))
        return config

    def _command(self, *arguments: str | Path) -> None:
        self._finish(self._start(_COMMAND, *map(str, arguments)))

    def _python(self, work: str, **given: Any) -> None:
        self._finish(self._start(_GIVEN + work, json.dumps(given, default=str)))

    def _kill(self, config: Path, folder: Path) -> None:
        """Run it, and kill it as soon as the second round is in its log."""
        log = folder / "metrics.jsonl"
        with self._start(_COMMAND, "run", str(config), "--out", str(folder)) as process:
            while not log.is_file() or log.read_bytes().count(b"\n") < _KILLED_AFTER:
                if process.poll() is not None:
                    self._finish(process)
                    raise PlayError("it was over before it could be killed")
                time.sleep(0.005)
            process.kill()
            process.communicate()
        if (folder / "results.json").exists():
            raise PlayError("it was over before it could be killed")

    def _start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        # One thread, since bits depend on their number; and no hub is asked for anything.
        changes = {"PYTHONPATH": str(self.source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **changes},
            cwd=self.scratch,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _finish(self, process: subprocess.Popen[str]) -> None:
        _, errors = process.communicate()
        if process.returncode:
            words = errors.strip().splitlines()
            raise PlayError(words[-1] if words else f"exit code {process.returncode}")


def _settings(run: Run) -> list[str]:
    """The run's tables as options of `flexlora continue`; JSON's numbers and texts are TOML's."""
    return [
        f"--set={name}.{key}={json.dumps(value)}"
        for name, table in run.tables.items()
        for key, value in table.items()
    ]
