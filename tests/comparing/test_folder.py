"""A comparison's folder: begun once, begun again with more, refused with anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comparing.comparisons import comparison
from flexlora.comparing.cells import finished
from flexlora.comparing.comparison import read_comparison
from flexlora.comparing.folder import begin
from flexlora.errors import RunError

MORE: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {"seeds": [0, 1, 2]}),
    ((), {"seeds": [1, 0]}),
    ((), {"rules": ["flexlora", "fedit", "flora"]}),
    ((), {"controls": ["local"]}),
    (({"mine": {"rule": {"name": "flora"}}},), {}),
]


@pytest.mark.parametrize(("arguments", "compare"), MORE)
def test_arms_and_seeds_may_come_to_it(
    arguments: Any, compare: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begin(comparison(), out)
    now = comparison(*arguments, **compare)
    begin(now, out)
    assert read_comparison(out).settings == now.settings
    begin(now, out)


def test_rates_may_come_to_it(tmp_path: Path) -> None:
    begin(comparison(rates=[1e-3, 1e-2], tuning_seeds=[7]), tmp_path / "out")
    begin(comparison(rates=[1e-3, 3e-3, 1e-2], tuning_seeds=[7, 8]), tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "compare", "message"),
    [
        ((), {"seeds": [0]}, "compare.seeds lacks 1"),
        ((), {"rules": ["flexlora"]}, "arm 'fedit' is missing"),
        ((), {"metric": "token_loss"}, 'compare.metric is "token_loss", was "loss"'),
        ((), {"part": "unseen"}, 'compare.part is "unseen", was "own"'),
        ((), {"primary": ["fedit", "flexlora"], "level": 0.5}, "compare.primary is"),
        ((None, {"federation": {"rounds": 9}}), {}, "federation.rounds is 9, was 2;"),
        (
            (None, {"rule": {"name": "fedit"}, "clients": {"level": "lowest"}}),
            {},
            'clients.level is "lowest", was not given;',
        ),
        ((), {"mixes": ["uniform", "normal"]}, "arm 'flexlora' is missing"),
    ],
)
def test_a_changed_config_is_refused_with_what_differs(
    arguments: Any, compare: dict[str, Any], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begin(comparison(), out)
    before = (out / "compare.toml").read_bytes()
    with pytest.raises(RunError) as error:
        begin(comparison(*arguments, **compare), out)
    assert message in str(error.value)
    assert "holds another comparison" in str(error.value)
    assert "give another --out, or the config as it was" in str(error.value)
    assert (out / "compare.toml").read_bytes() == before


def test_what_differs_in_one_arm_names_it(tmp_path: Path) -> None:
    begin(comparison({"a": {"training": {"epochs": 2}}}), tmp_path / "out")
    with pytest.raises(RunError, match=r"training.epochs is 3, was 2 \(arm a\);"):
        begin(comparison({"a": {"training": {"epochs": 3}}}), tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="holds something else than a comparison; choose another"):
        begin(comparison(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_comparison_has_no_cells(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no comparison: it has no compare\.toml"):
        finished(tmp_path)
    (tmp_path / "compare.toml").write_text("[compare]\n")
    with pytest.raises(RunError, match=r"compare\.toml cannot be used: .* has no seeds"):
        finished(tmp_path)
