"""Server-sent events: what a board tells, to any number of pages, without work while none looks."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, final

from flexlora.formats.json_text import json_text
from flexlora.watching.board import Board

TICK = 0.25  # Seconds between two looks while somebody does.
BEAT = 15.0  # Seconds of silence at most: a connection that is gone is noticed.
AGAIN = 1000  # Milliseconds until a page asks again for a server that went away.

T = TypeVar("T")


@final
class Stream:
    """The board is read in one thread of its own, while and only while a page listens.

    closing: whether the server ends, and its pages are to be let go of.
    """

    def __init__(self, board: Board, closing: Callable[[], bool] = lambda: False) -> None:
        self.board = board
        self.closing = closing
        self._thread = ThreadPoolExecutor(1, "board")
        self._readers = 0
        self._ticker: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def events(self, slug: str, last: str) -> AsyncIterator[str]:
        """The text of the events for a page that had `last`, of one run or ("") of all."""
        yield f"retry: {AGAIN}\n\n"
        self._readers += 1
        try:
            await self._work(self.board.look)
            if self._ticker is None or self._ticker.done():
                self._ticker = asyncio.create_task(self._tick())
            told = time.monotonic()
            while not self.closing():
                if self._ticker.done():
                    self._ticker.result()  # Nobody looks any more: no page is to seem alive.
                news = self._news
                name, text = await self._work(functools.partial(self._since, last, slug))
                if text:
                    yield text
                    told = time.monotonic()
                elif time.monotonic() > told + BEAT:
                    yield ": still here\n\n"
                    told = time.monotonic()
                last = name
                try:
                    await asyncio.wait_for(news.wait(), 1.0)
                except TimeoutError:
                    continue
        finally:
            self._readers -= 1

    def _since(self, last: str, slug: str) -> tuple[str, str]:
        """(the last message's number, the event or ""); written here, where nothing changes."""
        name, messages = self.board.since(last, slug)
        return name, f"id: {name}\ndata: {json_text(messages)}\n\n" if messages else ""

    async def _tick(self) -> None:
        while self._readers and not self.closing():
            if await self._work(self.board.look):
                self._news.set()
                self._news = asyncio.Event()
            await asyncio.sleep(TICK)

    async def _work(self, make: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, make)
