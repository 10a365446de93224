"""One family tried whole: a step, losses, texts and an export, each held to a plain twin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import PeftModel

from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.errors import ModelError
from flexlora.evaluation import continuation_losses
from flexlora.evaluation.asked import Asked
from flexlora.evaluation.continuing import FROM_TOGETHER, WITH_CACHE, WITHOUT_CACHE, continuing_of
from flexlora.evaluation.reading import reading_of
from flexlora.federation.rehearsal import rehearse
from flexlora.formats.peft import load_peft, save_peft
from flexlora.models import AdaptedModel, BaseModel
from flexlora.models.targets import find_layers
from flexlora.tasks.prompts import Encoded
from flexlora.training import Recipe, Visit, train
from models.families import linear_names, names, tiny

ALL = ("all-linear",)
_INSIDE = "base_model.model."  # Where PEFT puts the model.
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"
_CACHES = dict.fromkeys(map(id, (FROM_TOGETHER, WITH_CACHE)), "our cache")
_WORDS = {**_CACHES, id(WITHOUT_CACHE): "no cache"}


@dataclass(frozen=True)
class Tried:
    """What of a family works, as the guide's page says it."""

    name: str
    targets: str
    training: str
    scoring: str
    texts: str
    peft: str

    def line(self) -> str:
        cells = (self.targets, self.training, self.scoring, self.texts, self.peft)
        return f"| `{self.name}` | {' | '.join(cells)} |"


def try_out(name: str, folder: Path) -> Tried | str | None:
    """What it can, or the sentence with which it is refused; None if it cannot be built tiny."""
    base = tiny(name)
    if base is None:
        return None
    try:
        targets, model = _adapted(base)
        rehearse(model, texts=True)
    except ModelError as error:
        return str(error)
    whole = _trains_and_exports(model, name, folder)
    _scores(model)
    _writes(model)
    reading = reading_of(model)
    return Tried(
        name,
        '"all-linear"' if targets == ALL else "by name",
        "packed" if model.packs else "padded",
        "padded" if reading.beside else "equal lengths",
        _WORDS.get(id(continuing_of(model)), "transformers'"),
        "whole" if whole else "in part",
    )


def _adapted(base: BaseModel) -> tuple[tuple[str, ...], AdaptedModel]:
    try:
        return ALL, AdaptedModel(base, ALL)
    except ModelError as error:
        named = tuple(x for x in linear_names(base.model) if _may_be_named(base, x))
        if "name the layers in targets" not in str(error) or not named:
            raise
        return named, AdaptedModel(base, named)


def _may_be_named(base: BaseModel, target: str) -> bool:
    try:
        return bool(find_layers(base.model, base.name, [target]))
    except ModelError:
        return False


def _rows(*lengths: int) -> list[tuple[int, ...]]:
    draw = torch.Generator().manual_seed(0)
    return [tuple(torch.randint(300, 900, (n,), generator=draw).tolist()) for n in lengths]


def _plain(module: Any, row: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return module(input_ids=torch.tensor([row]), use_cache=False).logits[0]


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """5e-6 apart at most, where an adapter that is read past makes 6e-5 to 0.2 (both measured)."""
    return bool((one - other).abs().max() <= 2e-5 * other.abs().max())


def _trains_and_exports(model: AdaptedModel, name: str, folder: Path) -> bool:
    """The loss is that of each row alone. Whether PEFT computes with the export what we do.

    It loads less where a family's experts have the names of our layers, which it then takes for
    experts; what it loads must be what we have.
    """
    draw = torch.Generator().manual_seed(1)
    factors = {
        x.name: Factors(torch.zeros(x.m, 2), torch.randn(2, x.n, generator=draw), 1.0)
        for x in model.layers
    }
    rows = _rows(9, 4)
    examples = [Encoded(str(i), "", row[:-2], row[-2:], ()) for i, row in enumerate(rows)]
    recipe = Recipe("sgd", 0.5, batch_size=2)
    trained = train(model, Visit(Adapter(factors, name), examples, recipe, draw))
    alone = [
        torch.nn.functional.cross_entropy(_plain(model.model, row)[-3:-1], torch.tensor(row[-2:]))
        for row in rows
    ]
    assert abs(trained.loss - float(sum(alone)) / 2) <= 1e-3 * trained.loss
    # What is exported is no zero anywhere, whether or not the step reached it.
    worn = Adapter({x.name: _worn(x, draw) for x in model.layers}, name)
    save_peft(worn, folder)
    read = load_peft(folder)
    model.set_delta({name: f.product() for name, f in read.items()})
    ours = _plain(model.model, rows[0])
    model.set_delta({})
    assert not torch.equal(ours, _plain(model.model, rows[0]))
    again = tiny(name)
    assert again is not None
    with patch("peft.tuners.tuners_utils.MIN_TARGET_MODULES_FOR_OPTIMIZATION", 2):
        theirs = PeftModel.from_pretrained(again.model, str(folder)).eval()
    loaded = {
        n.removeprefix(_INSIDE)
        for n, x in theirs.named_modules()
        if hasattr(x, "lora_B") and any(bool(p.any()) for p in x.lora_B.parameters())
    }
    model.set_delta({name: f.product() for name, f in read.items() if name in loaded})
    part = _plain(model.model, rows[0])
    model.set_delta({})
    assert loaded
    assert _close(_plain(theirs, rows[0]), part)
    return loaded == set(read)


def _worn(layer: LayerSpec, draw: torch.Generator) -> Factors:
    b = torch.randn(layer.m, 2, generator=draw)
    return Factors(b, torch.randn(2, layer.n, generator=draw), 1.0 / layer.n)


def _scores(model: AdaptedModel) -> None:
    """Together as alone, which is as transformers has it."""
    rows = [(row[:-2], row[-2:]) for row in _rows(3, 11, 6, 6)]
    together = continuation_losses(model, rows, batch_size=4)
    for found, (prompt, text) in zip(together, rows, strict=True):
        logits = _plain(model.model, prompt + text)[-3:-1]
        alone = torch.nn.functional.cross_entropy(logits, torch.tensor(text), reduction="sum")
        assert abs(found.total - float(alone)) <= 1e-3 * float(alone)


def _writes(model: AdaptedModel) -> None:
    """Each token is one that the whole row, computed anew, likes best (ties either way)."""
    lengths = (3, 9, 5) if reading_of(model).beside else (6, 6, 6)
    rows, limits = _rows(*lengths), (4, 2, 3)
    texts = continuing_of(model)(model, Asked(rows, limits, [()] * 3))
    assert tuple(map(len, texts)) == limits
    for row, text in zip(rows, texts, strict=True):
        logits = _plain(model.model, (*row, *text))[len(row) - 1 : -1]
        behind = logits.amax(-1) - logits[torch.arange(len(text)), text]
        assert bool((behind <= 1e-3 * logits.abs().amax()).all())


def table(folder: Path) -> tuple[list[str], list[str]]:
    """Lines of the page: (families that work, families that are refused)."""
    works, refused = [], []
    for name in names():
        found = try_out(name, folder / name)
        if isinstance(found, Tried):
            works.append(found.line())
        elif found is not None:
            refused.append(f"| `{name}` | {found.split(': ')[0].split(', so ')[0]} |")
    return works, refused
