"""Send an answer as server-sent events: a comment in each silence, and an end to the work when the reader leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response

from app.errors import ApiError
from app.serving.exchange import UntilDisconnect
from app.upstream import sse

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from app.pipeline.record import Record
    from app.product.ask import Event

log = logging.getLogger(__name__)


class EventStream(Response):
    """A streamed answer. What `events` raises before its first event has a status; later it is an `error` event."""

    def __init__(self, events: AsyncGenerator[Event, None], *, heartbeat_seconds: float) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._events = events
        self._heartbeat_seconds = heartbeat_seconds
        self._sent = 0.0
        # Not by init_headers, which would promise the length of the empty body.
        media_type = f"{sse.MEDIA_TYPE}; charset=utf-8".encode()
        self.raw_headers = [(b"content-type", media_type), (b"cache-control", b"no-store")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; raises ApiError before the answer has begun. Returns when the reader leaves."""
        with UntilDisconnect(receive):
            await self._write(send, scope["state"]["record"])

    async def _write(self, send: Send, record: Record) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send(send, _event(*first))
            beat = asyncio.create_task(self._beat(send))
            try:
                async for event in events:
                    await self._send(send, _event(*event))
            except ApiError as error:
                record.broke_off(error)
                await self._send(send, sse.write(error.body(), "error"))
            except Exception:
                log.exception("an answer broke off")
                ours = ApiError("internal_error", "The answer broke off on our side; try again.")
                record.broke_off(ours)
                await self._send(send, sse.write(ours.body(), "error"))
            finally:
                beat.cancel()
                await asyncio.wait([beat])
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, piece: bytes) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        self._sent = asyncio.get_running_loop().time()

    async def _beat(self, send: Send) -> None:
        """Send a comment after each silence: an idle connection is closed by what lies between."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(max(0.0, self._sent + self._heartbeat_seconds - clock()))
            if clock() - self._sent >= self._heartbeat_seconds:
                await self._send(send, sse.HEARTBEAT)


def _event(name: str, data: object) -> bytes:
    return sse.write(orjson.dumps(data), name)
