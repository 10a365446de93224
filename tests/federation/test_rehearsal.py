"""A run of a model that our cache does not serve ends as any other, or never begins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.config.config import Config
from flexlora.errors import ModelError
from flexlora.federation import resume, run, score_model
from flexlora.federation.rehearsal import rehearse
from flexlora.models import AdaptedModel, load_model
from models.families import tiny
from small import small


def folder_of(name: str, folder: Path, **changes: Any) -> Path:
    base = tiny(name)
    assert base is not None
    model: Any = base.model
    for key, value in changes.items():
        setattr(model.config, key, value)
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def config(folder: Path, *targets: str, **evaluation: Any) -> Config:
    return small(
        model={"name": str(folder), "targets": list(targets) or ["all-linear"]},
        federation={"rounds": 1},
        evaluation=evaluation,
    )


@pytest.mark.parametrize(("name", "targets"), [("qwen3_5_text", ()), ("rwkv", ("key", "value"))])
def test_a_hybrid_run_ends_and_so_does_its_resume(
    name: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    asked = config(folder_of(name, tmp_path / "model"), *targets)
    result = run(asked, tmp_path / "run").to_json()
    assert result["rows"]
    assert resume(tmp_path / "run").to_json()["rows"] == result["rows"]


def test_an_encoder_never_begins(tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path / "model", is_decoder=False)
    with pytest.raises(ModelError, match="looks at tokens that come later"):
        run(config(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match="looks at tokens that come later"):
        score_model(config(folder))


def test_the_batch_size_changes_no_loss_where_padding_would(tmp_path: Path) -> None:
    folder = folder_of("rwkv", tmp_path / "model")
    one, many = (
        score_model(config(folder, "key", metrics=["loss"], batch_size=size)).mean()["loss"]
        for size in (1, 16)
    )
    assert math.isclose(one, many, rel_tol=1e-5)


def test_layers_whose_output_counts_for_nothing_cannot_be_trained() -> None:
    """Switched off on the way, as by a gate that is closed."""
    base = load_model("tiny")
    model: Any = AdaptedModel(base, ["*.mlp.down_proj"])
    for block in base.model.model.layers:  # type: ignore[union-attr]
        block.mlp.register_forward_hook(lambda *taken: 0.0 * taken[-1])
    with pytest.raises(ModelError) as error:
        rehearse(model, texts=False)
    assert str(error.value) == (
        "model tiny cannot be trained: none of its adapted layers gets a gradient; name other "
        "layers in model.targets, or give another model"
    )


def test_weights_that_cannot_be_trained_one_by_one_never_begin() -> None:
    """Two layers with one weight, of which a mask would be two: told before round 1."""
    base = load_model("tiny")
    attention: Any = base.model.get_submodule("model.layers.0.self_attn")
    attention.q_proj.weight = attention.o_proj.weight
    model = AdaptedModel(base, ["q_proj"])
    rehearse(model, texts=False)
    with pytest.raises(ModelError, match="shares its weight with another module"):
        rehearse(model, texts=False, sparse=True)


def test_a_rehearsal_of_single_weights_leaves_nothing() -> None:
    model = AdaptedModel(load_model("tiny"), ["attention"])
    before = {name: x.clone() for name, x in model.model.named_parameters()}
    rehearse(model, texts=False, sparse=True)
    for name, x in model.model.named_parameters():
        assert torch.equal(x, before[name])
        assert x.grad is None
        assert not x.requires_grad
