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


def test_names_are_the_same_by_text_place_or_what_says_which_model_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "llama")
    (tmp_path / "in").symlink_to(tmp_path)
    for one, other in (
        ("tiny", "tiny"),
        ("meta/llama", "/models/llama/"),
        ("meta/llama", "llama"),
        ("/a/llama", "/b/llama"),
        ("./llama", str(tmp_path / "llama")),
        ("link", "llama"),
        ("x/../llama", "llama"),
        ("in/link", "in/llama"),
        ("/a/2b/checkpoint-500", "/b/2b/checkpoint-500"),
        ("/a/2b/1", "C:\\b\\2b\\1"),
        ("org/m", "/hub/models--org--m/snapshots/0a1b"),
        ("/a/models--org--m/snapshots/1", "/b/models--org--m/snapshots/2"),
        ("checkpoint-500", "checkpoint-500"),
    ):
        assert same_base(one, other), (one, other)
        assert same_base(other, one), (one, other)
    for one, other in (
        ("llama", "llama-2"),
        ("meta/llama", "meta"),
        (".", "/"),
        ("org/m", "other/m"),
        ("org/m", "/hub/models--other--m/snapshots/0a1b"),
        ("/m/2b/1", "/m/2b-it/1"),
        ("/a/final", "/b/final"),
        ("/a/x/checkpoint-500", "/a/y/checkpoint-500"),
        ("checkpoint-500", "checkpoint-600"),
        ("/a/x/main", "main"),
        ("1", "/a/1"),
        ("a\0b", "b"),
        ("a\0b", "c"),
        ("x" * 5000, "y"),
    ):
        assert not same_base(one, other), (one, other)
        assert not same_base(other, one), (one, other)
    assert same_base("a\0b", "a\0b")
