"""Every family of causal language models: it trains, scores, writes and exports, or is refused in
one sentence before anything trains; docs/reference/families.md says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flexlora.errors import ModelError
from flexlora.evaluation.continuing import FROM_TOGETHER, continuing_of
from flexlora.evaluation.reading import Reading, reading_of
from flexlora.federation.rehearsal import rehearse
from flexlora.models import AdaptedModel
from flexlora.models.linear_like import linear_shape
from models.families import names, tiny
from models.tried import PAGE, Tried, table, try_out

# Of each way to read and to write at least one; of hybrids and state spaces several.
DOZEN = ["bart", "bert", "deepseek_v3", "falcon_h1", "falcon_mamba", "gemma3", "gpt2", "jetmoe"]
DOZEN += ["lfm2", "llama", "mpt", "phimoe", "qwen3_5_text", "rwkv", "xlnet"]


def lines() -> list[str]:
    return [x for x in PAGE.read_text(encoding="utf-8").splitlines() if x.startswith("| `")]


@pytest.mark.parametrize("name", DOZEN)
def test_a_family_does_what_the_guide_says(name: str, tmp_path: Path) -> None:
    found = try_out(name, tmp_path / "adapter")
    said = next(x for x in lines() if x.startswith(f"| `{name}` |"))
    if isinstance(found, Tried):
        assert said == found.line()
    else:
        assert found is not None
        assert found.startswith(said.split(" | ")[1].rstrip(" |"))
        assert "\n" not in found


@pytest.mark.soak
def test_the_guide_lists_what_every_family_does(tmp_path: Path) -> None:
    works, refused = table(tmp_path)
    assert lines() == works + refused
    assert len(works) > 150
    assert {x.split("`")[1] for x in lines()} < set(names())


def adapted(name: str, *targets: str) -> AdaptedModel:
    base = tiny(name)
    assert base is not None
    return AdaptedModel(base, targets or ("all-linear",))


def test_a_dense_decoder_keeps_its_own_way() -> None:
    model = adapted("llama")
    rehearse(model, texts=True)
    assert reading_of(model) == Reading(beside=True, positions=True)
    assert continuing_of(model) is FROM_TOGETHER


def test_padding_that_enters_a_state_is_found_out() -> None:
    assert not reading_of(adapted("rwkv", "key", "value")).beside


def test_an_encoder_is_refused_before_it_trains() -> None:
    base = tiny("bert")
    assert base is not None
    model: Any = base.model
    model.config.is_decoder = False
    for layer in model.modules():
        if hasattr(layer, "is_decoder"):
            layer.is_decoder = False
        if hasattr(layer, "is_causal"):
            layer.is_causal = False
    with pytest.raises(ModelError, match=r"bert looks at tokens that come later.*set is_decoder"):
        rehearse(AdaptedModel(base, ("all-linear",)), texts=False)


def test_a_model_that_changes_its_own_weights_is_refused() -> None:
    model = adapted("llama")
    norm = next(p for n, p in model.model.named_parameters() if n.endswith("norm.weight"))

    def rescale(*_: object) -> None:
        with torch.no_grad():
            norm.mul_(1.0)

    model.model.register_forward_pre_hook(rescale)
    with pytest.raises(ModelError, match="llama changes its own weights while it computes"):
        rehearse(model, texts=False)


def test_what_nothing_flows_back_through_is_refused() -> None:
    model = adapted("llama")
    embeddings = model.model.get_submodule("model.norm")
    embeddings.register_forward_hook(lambda _m, _x, y: y.detach())
    with pytest.raises(ModelError, match="llama cannot be trained: "):
        rehearse(model, texts=False)


def test_the_state_of_the_model_is_what_it_was() -> None:
    model = adapted("llama")
    before = {n: p.clone() for n, p in model.model.named_parameters()}
    rehearse(model, texts=True)
    assert all(torch.equal(p, before[n]) for n, p in model.model.named_parameters())
    assert all(p.grad is None for p in model.model.parameters())


def test_a_router_of_the_kind_of_a_linear_layer_is_none() -> None:
    base = tiny("phimoe")
    assert base is not None
    routers = [x for x in base.model.modules() if type(x).__name__ == "PhimoeTopKRouter"]
    assert routers
    assert not any(map(linear_shape, routers))
