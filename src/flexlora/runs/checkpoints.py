"""The checkpoints of a run: round-0007/{state.safetensors, meta.json}."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from flexlora.errors import AdapterError
from flexlora.formats.atomic import atomic_folder, leftovers
from flexlora.formats.json_text import json_text
from flexlora.formats.payloads import load_tensors, save_tensors
from flexlora.runs.files import Record, damaged, read_table

Checkpoint = tuple[Mapping[str, Tensor], Record]
_ROUND = re.compile(r"round-(\d{4,})")


@final
class Checkpoints:
    """One folder; each checkpoint in it appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, in order."""
        names = self.folder.iterdir() if self.folder.is_dir() else ()
        found = (_ROUND.fullmatch(path.name) for path in names)
        return sorted(int(match[1]) for match in found if match)

    def write(
        self,
        round: int,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        best: int | None,
        kept: Collection[int],
    ) -> None:
        """Write the state after a round, then remove all but this, the best and those `kept`."""
        target = self._of(round)
        if target.exists():
            shutil.rmtree(target)
        with atomic_folder(target) as aside:
            save_tensors(aside / "state.safetensors", tensors)
            (aside / "meta.json").write_text(
                json_text({"best": best, "meta": dict(meta)}, strict=True)
            )
        for older in self.rounds():
            if older not in (round, best, *kept):
                shutil.rmtree(self._of(older))

    def load(self, round: int | str | None) -> Checkpoint | None:
        """As `Run.load_checkpoint`."""
        rounds = self.rounds()
        if rounds and round in (None, "last", "best"):
            last = rounds[-1]
            best = self._file(last).get("best") if round == "best" else None
            round = last if best is None else best
        if round not in rounds:
            return None
        try:
            tensors, _ = load_tensors(self._of(int(round)) / "state.safetensors")
        except AdapterError as error:
            raise damaged(self._of(int(round))) from error
        return tensors, self.meta(int(round))

    def meta(self, round: int) -> Record:
        """The meta of a kept round, without its tensors. Raises RunError for a damaged one."""
        return dict(self._file(round)["meta"])

    def clean(self) -> None:
        """Remove what writers that were killed left. For who holds the run alone."""
        for left in leftovers(self.folder):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _of(self, round: int) -> Path:
        return self.folder / f"round-{round:04d}"

    def _file(self, round: int) -> Record:
        file = read_table(self._of(round) / "meta.json")
        if not isinstance(file.get("meta"), dict):
            raise damaged(self._of(round))
        return file
