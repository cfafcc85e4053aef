"""Long answers share a room: of what is being read and of what its caller has not taken, a process holds so much."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.errors import ApiError

if TYPE_CHECKING:
    from app.upstream.response import Response

MAX_ANSWER_BYTES = 96 * 1024 * 1024
"""2,048 embeddings of 3,072 dimensions written as decimals are about 75 MB; a longer answer is refused."""
LONG_BYTES = 1024 * 1024
"""What is shorter is bounded by the number of requests that a process lets in."""


class _Body(bytes):
    """A long answer. It takes room for as long as anybody, the caller's connection too, holds it."""

    room: LongAnswers

    def __del__(self) -> None:
        self.room.give_back(len(self))


class LongAnswers:
    """The room of one process. Who has no room waits, and so does OpenAI: nothing more is read of that answer.

    The one that was begun first goes on although there is none left, or each of several might wait for the others; but
    not while answers that nobody takes fill the room by themselves.
    """

    def __init__(self, size: int) -> None:
        """`size` in bytes. Beyond it there may be one answer of MAX_ANSWER_BYTES, and of each other its beginning."""
        self._size = size
        self._begun: dict[object, None] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self.reading = self.unsent = 0
        """Bytes of answers that are being read, and of those that are whole."""

    async def read(self, response: Response, beginning: bytes) -> bytes:
        """All of an answer of which so much has been read; raises UpstreamError, and ApiError 502."""
        mine, body = object(), bytearray(beginning)
        self._begun[mine] = None
        self.reading += len(body)
        try:
            while True:
                while self._full(mine):
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiter)
                    await waiter
                piece = await response.read()
                if not piece:
                    return self._whole(body)
                body += piece
                self.reading += len(piece)
                if len(body) > MAX_ANSWER_BYTES:
                    message = f"OpenAI's answer is longer than {MAX_ANSWER_BYTES} bytes."
                    raise ApiError("upstream_invalid_response", message)
        finally:
            del self._begun[mine]
            self.reading -= len(body)
            self._look_again()

    def give_back(self, size: int) -> None:
        """For an answer that nobody holds any more."""
        self.unsent -= size
        self._look_again()

    def _whole(self, body: bytearray) -> bytes:
        whole = _Body(body)
        whole.room = self
        self.unsent += len(whole)
        return whole

    def _full(self, mine: object) -> bool:
        if self.reading + self.unsent <= self._size:
            return False
        return self.unsent > self._size or next(iter(self._begun)) is not mine

    def _look_again(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
