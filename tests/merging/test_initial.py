"""Adapters whose initialisation changed the base model, held to PEFT: trained, then merged."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import peft
import pytest
import torch
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from safetensors.torch import save_file
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors
from flexlora.formats.peft import save_peft
from flexlora.formats.peft_config import CONFIG, WEIGHTS
from flexlora.merging import merge
from peft_folders import config_of, edit, stored, updates
from peft_models import ATTENTION, TOKENS, change, llama, loaded, output
from reference import assert_all_close, best

INITS = ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga"]
PLAIN: dict[str, Any] = {"r": 3, "lora_alpha": 5, "target_modules": ATTENTION}
PATTERNS = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 7}}
RSLORA = {"use_rslora": True}
OPTIONS: list[dict[str, Any]] = [PLAIN, PLAIN | RSLORA, PLAIN | PATTERNS]


def prepared(model: nn.Module, config: peft.LoraConfig) -> nn.Module:
    """What CorDA and LoRA-GA have to see of the data before they begin."""
    tokens = torch.randint(32, (8, 16), generator=torch.Generator().manual_seed(0))
    if config.init_lora_weights == "corda":
        preprocess_corda(model, config, run_model=lambda: [model(x[None]) for x in tokens])
    if config.init_lora_weights == "lora_ga":
        preprocess_loraga(model, config, lambda: model(tokens, labels=tokens).loss.backward())
    return model


def trained(model: nn.Module, place: Path, **options: Any) -> peft.PeftModel:
    """A model whose adapter was saved as it began, `place`/start, and trained, `place`/trained."""
    torch.manual_seed(1)
    whole = next(model.parameters()).dtype
    config = peft.LoraConfig(
        **options,
        corda_config=CordaConfig() if options["init_lora_weights"] == "corda" else None,
        lora_ga_config=LoraGAConfig() if options["init_lora_weights"] == "lora_ga" else None,
    )
    adapted = peft.get_peft_model(
        prepared(copy.deepcopy(model), config),
        config,
        autocast_adapter_dtype=whole == torch.float32,
    )
    adapted.save_pretrained(place / "start")
    weights = [x for x in adapted.parameters() if x.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=0.5)
    for _ in range(4):
        loss = adapted(TOKENS, labels=TOKENS).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    adapted.save_pretrained(place / "trained")
    return adapted.eval()


# The last is what PEFT's own conversion refuses.
@pytest.mark.parametrize("options", [*OPTIONS, PLAIN | RSLORA | PATTERNS])
@pytest.mark.parametrize("init", INITS)
def test_on_the_base_as_published_it_computes_what_was_trained(
    tmp_path: Path, init: str, options: dict[str, Any]
) -> None:
    model = llama()
    wanted = output(trained(model, tmp_path, init_lora_weights=init, **options))
    assert float((wanted - output(model)).abs().max()) > 1e-2
    rank: Literal["full"] | int
    for rank, out in (("full", tmp_path / "out"), (6, tmp_path / "cut")):
        merge(
            [tmp_path / "trained"],
            out,
            initial={tmp_path / "trained": tmp_path / "start"},
            rank=rank,
        )
        got = output(peft.PeftModel.from_pretrained(copy.deepcopy(model), out).eval())
        torch.testing.assert_close(got, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_in_half_precision_it_is_off_by_the_rounding_of_what_the_base_was_left(
    tmp_path: Path, init: str, dtype: torch.dtype
) -> None:
    """The base that PEFT trains on is rounded once more than the published one."""
    model = llama().to(dtype)
    adapted = trained(model, tmp_path, init_lora_weights=init, **PLAIN)
    after = dict(adapted.merge_and_unload().double().named_parameters())
    merge(
        [tmp_path / "trained"],
        tmp_path / "out",
        initial={tmp_path / "trained": tmp_path / "start"},
    )
    got = change(model, tmp_path / "out")
    for name, before in model.double().named_parameters():
        # As far as W, s B A and W − s B₀ A₀ are rounded; they are some times as large as W.
        limit = 8 * torch.finfo(dtype).eps * float(before.abs().max())
        assert float((before + got[name] - after[name]).abs().max()) < limit


def written(folder: Path, sides: Adapter, dtype: torch.dtype) -> dict[str, Tensor]:
    """A folder of PEFT's, and layer → update in float64."""
    save_peft(sides, folder, compact=True, dtype=str(dtype).removeprefix("torch."))
    edit(folder, init_lora_weights="pissa")
    return updates(folder)


@pytest.mark.parametrize("alpha", [4, 6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("compact", [True, False])
def test_a_small_change_of_a_large_start_is_not_rounded_away(
    tmp_path: Path, dtype: torch.dtype, alpha: int, compact: bool
) -> None:
    """By the rounding of the dtype at most, of what was learned, whatever it began with."""
    draws = torch.Generator().manual_seed(0)
    b, a = torch.randn(24, 4, generator=draws), torch.randn(4, 20, generator=draws)
    to_b, to_a = (x + 0.01 * torch.randn(x.shape, generator=draws) for x in (b, a))
    start = written(tmp_path / "start", Adapter({"q": Factors(b, a, alpha / 4)}), dtype)
    end = written(tmp_path / "trained", Adapter({"q": Factors(to_b, to_a, alpha / 4)}), dtype)
    initial = {tmp_path / "trained": tmp_path / "start"}
    told = merge([tmp_path / "trained"], tmp_path / "out", initial=initial, compact=compact)
    learned = end["q"] - start["q"]
    off = (updates(tmp_path / "out")["q"] - learned).norm() / learned.norm()
    kept = compact or alpha == 4  # A scale of 1 or of a power of two leaves every bit.
    assert float(off) < (1e-14 if kept else torch.finfo(dtype).eps)
    assert told.norm == pytest.approx(float(learned.norm()), rel=1e-6)


def test_either_may_be_without_the_zeros_that_filled_it_up(tmp_path: Path) -> None:
    """What an export wrote, and what PEFT wrote after training all of its directions."""
    draws = torch.Generator().manual_seed(0)

    def sides(rank: int) -> Factors:
        return Factors(
            torch.randn(9, rank, generator=draws), torch.randn(rank, 7, generator=draws), 1.0
        )

    save_peft(Adapter({"q": sides(4), "v": sides(2)}), tmp_path / "start")
    grown = {
        name: x + 0.1 * torch.randn(x.shape, generator=draws)
        for name, x in stored(tmp_path / "start").items()
    }
    (tmp_path / "trained").mkdir()
    save_file(grown, tmp_path / "trained" / WEIGHTS)
    shutil.copy(tmp_path / "start" / CONFIG, tmp_path / "trained")
    ends, starts = (updates(tmp_path / x) for x in ("trained", "start"))
    for place, (one, other, sign) in enumerate((("trained", "start", 1), ("start", "trained", -1))):
        out = tmp_path / f"out{place}"
        told = merge([tmp_path / one], out, initial={tmp_path / one: tmp_path / other})
        assert {layer.ranks for layer in told.layers} == {(8,)}
        wanted = {name: sign * (ends[name] - starts[name]) for name in ends}
        assert_all_close(updates(out), wanted, 1e-6)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("init", INITS)
def test_it_is_pefts_own_conversion_bit_for_bit(
    tmp_path: Path, init: str, options: dict[str, Any]
) -> None:
    adapted = trained(llama(), tmp_path, init_lora_weights=init, **options)
    edit(tmp_path / "start", init_lora_weights=True)  # As PEFT wants it for this.
    adapted.save_pretrained(
        tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    merge(
        [tmp_path / "trained"],
        tmp_path / "ours",
        initial={tmp_path / "trained": tmp_path / "start"},
        compact=True,
    )
    ours, theirs = stored(tmp_path / "ours"), stored(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert_all_close(updates(tmp_path / "ours"), updates(tmp_path / "theirs"), 1e-15)


def test_it_is_summed_with_others_at_twice_its_rank(tmp_path: Path) -> None:
    model = llama()
    for name, init in (("a", "pissa"), ("b", "olora"), ("c", True)):
        trained(model, tmp_path / name, init_lora_weights=init, **PLAIN)
    folders = [tmp_path / name / "trained" for name in "abc"]
    initial = {path: path.parent / "start" for path in folders[:2]}
    whole = merge(folders, tmp_path / "out", initial=initial, weights=[1, -2, 1])
    assert whole.initial == (*initial.values(), None)
    assert {layer.ranks for layer in whole.layers} == {(6, 6, 3)}
    assert not whole.untouched
    ends, starts = ([updates(x) for x in paths] for paths in (folders, initial.values()))
    wanted = {
        name: ends[0][name] - starts[0][name] - 2 * (ends[1][name] - starts[1][name]) + x
        for name, x in ends[2].items()
    }
    assert_all_close(updates(tmp_path / "out"), wanted, 1e-5)
    merge(folders, tmp_path / "cut", initial=initial, weights=[1, -2, 1], rank=4)
    cut = {name: best(x, 4) for name, x in wanted.items()}
    assert_all_close(updates(tmp_path / "cut"), cut, 1e-5)


def test_a_start_that_says_no_initialisation_counts(tmp_path: Path) -> None:
    """PEFT's own way is to set it to true before either is saved, which loading them needs."""
    model = llama()
    wanted = output(trained(model, tmp_path, init_lora_weights="pissa", **PLAIN))
    for name in ("trained", "start"):
        edit(tmp_path / name, init_lora_weights=True)
    merge(
        [tmp_path / "trained"],
        tmp_path / "out",
        initial={tmp_path / "trained": tmp_path / "start"},
    )
    got = output(loaded(model, tmp_path / "out").float())
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=1e-5)


def test_the_base_is_the_one_that_the_start_names(tmp_path: Path) -> None:
    """Who saved what PiSSA left of the base trains on that, and the adapter names it."""
    trained(llama(), tmp_path, init_lora_weights="pissa", **PLAIN)
    edit(tmp_path / "start", base_model_name_or_path="org/published")
    edit(tmp_path / "trained", base_model_name_or_path="/models/residual")
    initial = {tmp_path / "trained": tmp_path / "start"}
    merge([tmp_path / "trained"], tmp_path / "out", initial=initial)
    assert config_of(tmp_path / "out")["base_model_name_or_path"] == "org/published"
    assert "init_lora_weights" not in json.dumps(config_of(tmp_path / "out"))
