"""Whether an adapter was made for a base model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flexlora.adapters import About, Adapter, Factors
from flexlora.errors import AdapterError
from flexlora.models import base_fingerprint, load_model, model_fingerprint, require_made_for

CURE = "give that model"
ONE, OTHER = base_fingerprint("float32", "1" * 64), base_fingerprint("float32", "2" * 64)


def adapter(base: str = "", fingerprint: str = "") -> Adapter:
    layers = {"x": Factors(torch.zeros(2, 1), torch.ones(1, 2), 1.0)}
    return Adapter(layers, About(base, fingerprint))


def test_fingerprints_decide_where_both_are_known() -> None:
    require_made_for(adapter("some/name", ONE), "another-name", ONE, CURE)
    words = r"made for tiny with weights 1{12}, not for tiny with weights 2{12}; give that model"
    with pytest.raises(AdapterError, match=words):
        require_made_for(adapter("tiny", ONE), "tiny", OTHER, CURE)


@pytest.mark.parametrize("theirs", ["", base_fingerprint("bfloat16", "1" * 64)])
def test_names_decide_where_fingerprints_do_not_compare(theirs: str) -> None:
    require_made_for(adapter("org/tiny", theirs), "tiny", ONE, CURE)
    require_made_for(adapter("", theirs), "tiny", ONE, CURE)
    with pytest.raises(AdapterError, match="made for org/huge, not for tiny; give that model"):
        require_made_for(adapter("org/huge", theirs), "tiny", ONE, CURE)


def test_another_revision_than_the_newest_is_refused_where_that_is_loaded(tmp_path: Path) -> None:
    made = Adapter(dict(adapter()), About("org/tiny", revision="step1"))
    words = (
        "made for org/tiny as of revision 'step1', and by that name the newest one is loaded; down"
    )
    with pytest.raises(AdapterError, match=words):
        require_made_for(made, "org/tiny", ONE, CURE)
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    require_made_for(made, str(tmp_path / "org" / "tiny"), ONE, CURE)
    require_made_for(Adapter(dict(made), About("org/tiny", revision="main")), "org/tiny", ONE, CURE)
    known = Adapter(dict(made), About("org/tiny", ONE, revision="step1"))
    require_made_for(known, "org/tiny", ONE, CURE)


def test_one_model_in_two_dtypes_has_two_fingerprints() -> None:
    full, half = (
        base_fingerprint(dtype, model_fingerprint(load_model("tiny", dtype).model))
        for dtype in ("float32", "bfloat16")
    )
    assert full != half
    require_made_for(adapter("tiny", half), "tiny", full, CURE)
