"""The checkpoints of a run: round-0007/{state.safetensors, meta.json, SHA256SUMS}.

One that is not as it was written is never used. Who reads is told so; who resumes steps back to the
last whole one, and what is damaged is set aside as damaged-round-0007.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, final

from torch import Tensor

from flexlora.errors import AdapterError, RunError
from flexlora.formats.atomic import atomic_folder, remove_folder
from flexlora.formats.json_text import json_text
from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.runs.files import CURE, Record, damaged, read_table
from flexlora.runs.sums import NAME, foreign, read_sums, require_whole, write_sums

Checkpoint = tuple[Mapping[str, Tensor], Record]
T = TypeVar("T")
_ROUND = re.compile(r"round-(\d{4,})")


@final
class Checkpoints:
    """One folder; each checkpoint in it appears whole or not at all.

    run: what tells this run from others: a checkpoint of another one is none of this; last: how
    many of the last rounds are kept.
    """

    def __init__(self, folder: Path, run: str, last: int = 1) -> None:
        self.folder = folder
        self.run = run
        self.last = last
        self._until: int | None = None  # Later ones are damaged, and not looked at.
        self._written = 0  # The round that this process wrote last.

    def rounds(self) -> list[int]:
        """Those that have a checkpoint, in order; after `step_back`, those up to a whole one."""
        return [x for x in self._there() if self._until is None or x <= self._until]

    def write(
        self,
        round: int,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        best: int | None,
        kept: Collection[int],
        logs: Mapping[str, str],
    ) -> None:
        """Write the state after a round, then remove all but the last, the best and those `kept`.

        logs: the check at which each of the run's logs stands.
        """
        with atomic_folder(self._of(round)) as aside:
            save_tensors(aside / "state.safetensors", tensors)
            file = {"run": self.run, "round": round, "best": best, "logs": dict(logs)}
            text = json_text(file | {"meta": dict(meta)}, strict=True)
            (aside / "meta.json").write_text(text)
            write_sums(aside)
        self._written = round
        self.keep((*self.rounds()[-self.last :], best, *kept))

    def keep(self, rounds: Collection[int | None]) -> None:
        """Remove the checkpoints of all other rounds, each of them whole."""
        for older in self.rounds():
            if older not in rounds:
                remove_folder(self._of(older))

    def remove(self) -> None:
        """Remove all of them at once, however many there are."""
        if self.folder.is_dir():
            remove_folder(self.folder)

    def tidy(self, kept: Collection[int]) -> None:
        """Remove what `write` would have, had it not been killed. For who holds the run alone."""
        rounds = self.rounds()
        if rounds:
            with suppress(RunError):  # Who reads a damaged one will say so; nothing goes before.
                self.keep((*rounds[-self.last :], self._best(rounds[-1]), *kept))

    def step_back(self) -> None:
        """From here on, take the last whole one for the last. Nothing is written.

        All of them count where the last is whole, or none is: who reads it will say so.
        """
        whole = self._last_whole()
        self._until = None if whole is None or whole == self._there()[-1] else whole

    def set_aside(self) -> list[tuple[Path, str]]:
        """`step_back`, and rename what was damaged, so that its round can be written again.

        Returns where each lies now, and what is wrong with it. For who holds the run alone.
        """
        self.step_back()
        left, self._until = self.rounds(), None
        gone = []
        for round in sorted(set(self._there()) - set(left)):
            wrong = self._wrong(round) or ""
            aside = _free(self.folder / f"damaged-{self._of(round).name}")
            self._of(round).rename(aside)
            gone.append((aside, wrong))
        return gone

    def load(self, round: int | str | None) -> Checkpoint | None:
        """As `Run.load_checkpoint`."""

        def read(rounds: list[int]) -> Checkpoint | None:
            asked = round
            if rounds and asked in (None, "last", "best"):
                best = self._best(rounds[-1]) if asked == "best" else None
                asked = rounds[-1] if best is None else best
            if asked not in rounds:
                return None
            folder = self._of(int(asked))
            if asked != self._written:
                self._require(folder, "state.safetensors")
            try:
                tensors, _ = load_tensors(folder / "state.safetensors")
            except AdapterError as error:
                raise damaged(folder) from error
            return tensors, self.meta(int(asked))

        return self._steady(read)

    def last_meta(self) -> Record:
        """The meta of the last checkpoint; empty where there is none."""
        return self._steady(lambda rounds: self.meta(rounds[-1]) if rounds else {})

    def meta(self, round: int) -> Record:
        """The meta of a kept round, without its tensors. Raises RunError for a damaged one."""
        return dict(self._file(round)["meta"])

    def logs(self) -> Mapping[str, str]:
        """Log → its check when the last checkpoint was written; empty where there is none."""
        return self._steady(lambda found: self._file(found[-1])["logs"] if found else {})

    def _steady(self, read: Callable[[list[int]], T]) -> T:
        """What is read of the rounds that there are, while another process adds and removes."""
        rounds = self.rounds()
        while True:
            try:
                return read(rounds)
            except RunError as error:
                now = self.rounds()
                if now == rounds:
                    on = self._way_on(rounds)
                    if not on:
                        raise
                    raise RunError(f"{error}, or {on}") from error
                rounds = now

    def _way_on(self, rounds: list[int]) -> str:
        """What helps where an earlier round than the last is whole; "" where none is."""
        whole = self._last_whole()
        if whole is None or whole == rounds[-1]:
            return ""
        run = self.folder.parent
        if (run / "results.json").is_file():
            return f"use round {whole}, which is whole: --round {whole}"
        return f"go on from round {whole}, which is whole: flexlora resume {run}"

    def _there(self) -> list[int]:
        names = self.folder.iterdir() if self.folder.is_dir() else ()
        found = (_ROUND.fullmatch(path.name) for path in names)
        return sorted(int(match[1]) for match in found if match)

    def _last_whole(self) -> int | None:
        return next((x for x in reversed(self._there()) if self._wrong(x) is None), None)

    def _wrong(self, round: int) -> str | None:
        """What is wrong with a checkpoint; None for a whole one. All of it is read."""
        try:
            self._file(round)
            self._require(self._of(round), "state.safetensors")
        except RunError as error:
            return str(error)
        return None

    def _best(self, last: int) -> int | None:
        best = self._file(last).get("best")
        return best if type(best) is int else None

    def _of(self, round: int) -> Path:
        return self.folder / f"round-{round:04d}"

    def _file(self, round: int) -> Record:
        folder = self._of(round)
        self._require(folder, "meta.json")
        file = read_table(folder / "meta.json")
        if file.get("run") != self.run or file.get("round") != round:
            raise RunError(f"{folder} is of another run or round; {CURE}")
        texts = isinstance(file.get("logs"), dict) and all(
            isinstance(check, str) for check in file["logs"].values()
        )
        if not isinstance(file.get("meta"), dict) or not texts:
            raise damaged(folder / "meta.json")
        return file

    def _require(self, folder: Path, name: str) -> None:
        sums = read_sums(folder)
        odd = {path.name for path in folder.iterdir()} - sums.keys() - {NAME}
        if odd:
            raise foreign(folder / min(odd))
        if name not in sums:
            raise damaged(folder / NAME)
        require_whole(folder, (name,), sums)


def _free(path: Path) -> Path:
    """This path, or the first of it and a number at which there is nothing."""
    names = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(x for x in names if not x.exists())
