"""What runs were played on: data, base model and own code, which runs of one comparison share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flexlora.comparing.cells import CELLS, TUNING
from flexlora.config.config import Config
from flexlora.errors import FlexLoRAError, RunError
from flexlora.runs.run_directory import Record, Run

Question = tuple[str, ...]
"""What is asked about, in words, then all that the answer depends on: whose are alike have to agree
on it."""


def inputs(config: Config, data: Record, parent: Record | None) -> dict[Question, str]:
    """Question → the fingerprint that a run of this config noted. data, parent: its data.json, and
    its parent.json where it has one; what neither tells is not asked about."""
    model, seed = config.model, str(config.federation.seed)
    begun = (model.name, model.prompt, str(model.date), str(model.init_from))
    dealt = (*map(repr, (config.data, config.partition, config.hostile, config.evaluation)), seed)
    metrics: Mapping[str, object] = data.get("metric_fingerprints") or {}
    asked: dict[Question, object] = {
        (f"the data at seed {seed}", repr(config.data), seed): data.get("fingerprint"),
        (f"the base model {model.name}", model.precision): data.get("model_fingerprint"),
        (f"the tokenizer of {model.name} or who holds what", *begun, *dealt): data.get(
            "encoding_fingerprint"
        ),
        ("the file of devices", repr(config.clients)): data.get("device_fingerprint"),
        (f"the file of rule {config.rule.name}",): data.get("rule_fingerprint"),
        **{(f"the file of metric {name}",): found for name, found in metrics.items()},
        (f"{model.init_from}, which it begins from,",): (parent or {}).get("fingerprint"),
    }
    return {asks: found for asks, found in asked.items() if found and isinstance(found, str)}


class Inputs:
    """Of the runs that are begun in OUT, each read once."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._known: dict[Question, tuple[str, Path]] = {}
        self._read: set[Path] = set()

    def require(self, config: Config, data: Record, parent: Record | None) -> None:
        """Raise RunError where a run in OUT was played on something else than one of this would
        be, though their configs name the same."""
        self._look()
        for question, found in inputs(config, data, parent).items():
            before, folder = self._known.get(question, (found, Path()))
            if before != found:
                raise RunError(
                    f"{question[0]} is not what {folder} was played on; restore it, or play the "
                    "comparison anew with another --out"
                )

    def _look(self) -> None:
        for folder in _begun(self._out):
            if folder in self._read:
                continue
            self._read.add(folder)
            try:
                run = Run.open(folder)
                found = inputs(run.config, run.data, run.parent)
            except FlexLoRAError:
                continue  # Whoever plays it, or shows it, tells what is wrong.
            for question, answer in found.items():
                self._known.setdefault(question, (answer, folder))


def _begun(out: Path) -> Iterator[Path]:
    for pattern in (f"{CELLS}/*/*", f"{TUNING}/*/*/*"):
        yield from sorted(path.parent for path in out.glob(f"{pattern}/data.json"))


def differing(runs: Sequence[tuple[Config, Record, Record | None]]) -> dict[str, dict[str, int]]:
    """What is asked about, in words → its fingerprints, cut short → how many of these runs have
    each; where they differ."""
    answers: dict[Question, dict[str, int]] = {}
    for run in runs:
        for question, found in inputs(*run).items():
            of = answers.setdefault(question, {})
            of[found] = of.get(found, 0) + 1
    told: dict[str, dict[str, int]] = {}
    for question, of in answers.items():
        if len(of) > 1:
            named = told.setdefault(question[0].strip(",").removeprefix("the "), {})
            for found, many in of.items():
                named[found[:10]] = named.get(found[:10], 0) + many
    return told
