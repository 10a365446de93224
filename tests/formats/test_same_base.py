"""Whether two bases are one: by their weights where those are known, else by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexlora.formats.same_base import Base, difference, same_base


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (Base("org/a", "float32:1"), Base("b", "float32:1"), None),
        (Base("a", "float32:1"), Base("a", "float32:2"), "weights"),
        (Base("", "float32:1"), Base("", "float32:2"), "weights"),
        # Weights of two dtypes do not compare, nor do those that are not known.
        (Base("org/a", "float32:1"), Base("a", "bfloat16:1"), None),
        (Base("org/a", "float32:1"), Base("b", "bfloat16:1"), "name"),
        (Base("org/a", ""), Base("a", "float32:1"), None),
        (Base("org/a", ""), Base("b", "float32:1"), "name"),
        (Base("a", ""), Base("b", ""), "name"),
        # Nothing is known of one of them.
        (Base("", "float32:1"), Base("b", "bfloat16:1"), None),
        (Base("", ""), Base("b", "float32:1"), None),
        (Base("", ""), Base("", ""), None),
    ],
)
def test_what_tells_two_bases_apart(one: Base, other: Base, found: str | None) -> None:
    assert difference(one, other) == difference(other, one) == found


def test_names_are_the_same_by_text_place_or_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "llama")
    for one, other in (
        ("tiny", "tiny"),
        ("meta/llama", "/models/llama/"),
        ("./llama", str(tmp_path / "llama")),
        ("link", "llama"),
        ("x/../llama", "llama"),
    ):
        assert same_base(one, other), (one, other)
    for one, other in (("llama", "llama-2"), ("meta/llama", "meta"), (".", "/")):
        assert not same_base(one, other), (one, other)
