"""Every config that is shown runs on models of the shapes that people have."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from flexlora.comparing import plan
from flexlora.comparing.checks import require_playable
from flexlora.comparing.comparison import load_comparison
from flexlora.config import load_config
from flexlora.config.config_file import override, parse_config
from flexlora.federation import Session
from flexlora.models import load_model
from follow import ROOT, blocks

pytestmark = pytest.mark.whole

SHAPES = {  # Two layers of each, and the embedded model's tokenizer.
    "SmolLM2-135M": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=2,
        tie_word_embeddings=True,
    ),
    "Qwen2.5-0.5B": Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_attention_heads=14,
        num_key_value_heads=2,
        num_hidden_layers=2,
        tie_word_embeddings=True,
    ),
}
QUICK = ["federation.rounds=1", "federation.clients_per_round=2", "training.max_steps=1"]
QUICK += ["evaluation.max_new_tokens=2", "evaluation.own_examples=2"]


def shown(page: str, source: str) -> dict[str, Any]:
    """The one block of a page whose data come from this source, and that is no file of its own."""
    found = [
        config
        for block in blocks((ROOT / page).read_text(encoding="utf-8"))
        if block.kind == "toml" and not block.mark
        for config in [tomllib.loads(block.text)]
        if config.get("data", {}).get("source") == source
    ]
    assert len(found) == 1
    return found[0]


def example(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))


def demo() -> dict[str, Any]:
    return tomllib.loads((ROOT / "src/flexlora/cli/demo.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=sorted(SHAPES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = load_model("tiny")
    config = SHAPES[request.param]
    embedded: Any = tiny.model
    config.vocab_size = embedded.config.vocab_size
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / str(request.param)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that have every column that is named on the pages, of eight kinds."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {
            **{"question": f"what is {i}?", "notes": "", "answer": "a number", "ward": f"w{i % 8}"},
            **{"instruction": f"say {i}", "context": "", "response": f"{i}"},
            "category": f"kind {i % 8}",
        }
        for i in range(400)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_the_readme_shows_for_a_real_model_plays(
    model: Path, data: Path, tmp_path: Path
) -> None:
    asked = [*QUICK, f"model.name='{model}'", f"data.path='{data}'"]
    result = Session.of(parse_config(override(shown("README.md", "jsonl"), asked))).play(
        tmp_path / "run"
    )
    assert [row.ranks for row in result.rows] == ["", "full", "64", "8"]


SHOWN: dict[str, Mapping[str, Any]] = {
    "nothing": {},
    "demo": demo(),
    "quick": example("quick.toml"),
    "dolly": example("dolly.toml"),
    "huggingface": shown("docs/guide/bring_your_data.md", "huggingface"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_passes_a_dry_run(name: str, model: Path, data: Path) -> None:
    document = SHOWN[name]
    asked = [f"model.name='{model}'", "data.max_tokens=250"]
    if "path" in document.get("data", {}):
        asked.append(f"data.path='{data.parent if name == 'huggingface' else data}'")
    preview = Session.of(parse_config(override(document, asked))).preview()
    narrowest = min(layer.largest_rank for layer in preview.setup.model.layers)
    assert narrowest in (192, 128)
    assert sum(kind.clients for kind in preview.forecast.types) > 1
    types, scale = (document.get("clients", {}).get(key) for key in ("types", "scale"))
    wide = scale is None and max((types or {"paper": 200}).values()) > narrowest
    assert bool(preview.setup.roster.notes) == wide


def test_the_comparison_that_is_shown_can_be_played() -> None:
    asked = load_comparison(ROOT / "examples" / "compare.toml")
    require_playable(asked)
    assert len(asked.played) * len(asked.settings.seeds) == 16
    assert len(plan.tuning(asked, Path(), asked.settings.rates)) == 12


@pytest.mark.parametrize("name", sorted(x.name for x in (ROOT / "examples").glob("*.toml")))
def test_every_example_is_read(name: str) -> None:
    read = load_comparison if name == "compare.toml" else load_config
    read(ROOT / "examples" / name)


def test_an_empty_file_is_a_config(tmp_path: Path) -> None:
    (tmp_path / "e.toml").touch()
    preview = Session.of(load_config(tmp_path / "e.toml")).preview()
    assert [kind.ranks for kind in preview.forecast.types] == [
        *("8", "30", "attention 30, mlp 128", "128")
    ]
    assert "type3 (attention 30, all 200) in 12 of 28 layers" in preview.setup.notes[0]
