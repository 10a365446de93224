"""The events of a server that looks no more: no page is told that it is alive."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flexlora.cli.standing_words import event_words
from flexlora.watching import stream
from flexlora.watching.board import Board
from flexlora.watching.places import Places
from flexlora.watching.stream import Stream
from watching.played import Played


def test_a_page_is_let_go_of_where_nobody_looks_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TICK", 0.0)
    board = Board(Places([Played(tmp_path / "a").run.folder], event_words))
    looks: list[int] = []
    look = board.look

    def breaks(now: float | None = None) -> bool:
        looks.append(1)
        if len(looks) > 2:
            raise RuntimeError("a fault of the board")
        return look(now)

    monkeypatch.setattr(board, "look", breaks)

    async def page() -> list[str]:
        return [text async for text in Stream(board).events("", "")]

    with pytest.raises(RuntimeError, match="a fault of the board"):
        asyncio.run(asyncio.wait_for(page(), 60))
