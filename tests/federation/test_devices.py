"""A run's device is written down, and a resume keeps to it; quantised bases in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.adapters import About, Adapter
from flexlora.errors import AdapterError, RunError
from flexlora.federation import resume, run, score_model
from flexlora.runs import load_adapter
from flexlora.runs.run_directory import Run
from reference import product
from resealed import reseal
from small import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small(federation={"rounds": 1}, evaluation={"unseen": False})
    return run(config, tmp_path_factory.mktemp("runs") / "r").folder


def test_the_device_is_resolved_and_a_resume_needs_it(folder: Path) -> None:
    assert Run.open(folder).resolved["device"] == "cpu"
    table = folder / "resolved.toml"
    written = table.read_text()
    table.write_text(written.replace('device = "cpu"', 'device = "cuda:77"'))
    reseal(folder)
    message = r"r ran on cuda:77, and this machine has cpu.*; resume it where there is one, or go"
    with pytest.raises(RunError, match=message):
        resume(folder)
    table.write_text(written)
    reseal(folder)
    resume(folder)


@pytest.mark.parametrize("quantise", ["4bit", "8bit"])
def test_a_quantised_base_federates_and_its_adapters_know_it(quantise: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra quant is not installed")
    tables: dict[str, dict[str, Any]] = {
        "evaluation": {"unseen": False},
        "federation": {"rounds": 2},
    }
    model = {"quantise": quantise, "checkpointing": True}
    one, two = (
        run(small(model=x, **tables), tmp_path / str(i)).folder
        for i, x in enumerate((model, {**model, "checkpointing": False}))
    )
    adapter, same = (load_adapter(x, "full") for x in (one, two))
    assert all(torch.equal(product(adapter[x]), product(same[x])) for x in adapter)
    assert adapter.base_fingerprint.startswith(f"float32-{quantise}:")
    score_model(small(model={"quantise": quantise}, **tables), adapter)
    other = {"4bit": "8bit", "8bit": "4bit"}[quantise]
    score_model(small(model={"quantise": other}, **tables), adapter)  # Known by its name alone.
    known = adapter.base_fingerprint[:-4] + "beef"
    foreign = Adapter(adapter, About(adapter.base, known))
    with pytest.raises(AdapterError, match="with weights"):
        score_model(small(model={"quantise": quantise}, **tables), foreign)
