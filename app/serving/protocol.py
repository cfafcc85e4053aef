"""uvicorn's protocol, which answers what needs no waiting inside the call that read it, and sends whole answers whole.

uvicorn makes an ASGI scope, a cycle and a task for each request, and a dictionary for each message, which cost more
than what is done with them. So a small request that is here with its body is first shown to the application as it is,
and then, when that has no answer at once, given to it in a cycle of our own. Everything else goes the ASGI way, and
nothing but the cost differs between the ways.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple, cast

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.serving.cycle import Cycle
from app.serving.exchange import HELD_KEY, headers_of
from app.serving.wire import HeadWaits

HOLD_SECONDS = 0.05
"""A head that came alone is held so long for its body, then it goes the ASGI way, which waits longer."""
SMALL_BODY_BYTES = 64 * 1024
"""Where uvicorn stops reading until the application reads; a longer body goes the ASGI way from its head on."""
MAX_HEAD_BYTES = 64 * 1024
"""Bytes in a row that are no body: first line and headers, sizes of chunks, trailers. An ALB passes no more; what comes
in one read with the beginning is not counted."""
HEAD_SECONDS = 20.0
"""From the first byte of a request's head to its last."""
MOST_WAITING = 100
"""Requests that wait on a connection for the answer before theirs: uvicorn reads on with every answer."""
_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
"""What stands in no header's value (RFC 9110, 5.5): uvicorn refuses it too."""
_NONE, _HEAD, _BODY = range(3)


class Whole(NamedTuple):
    """An answer that is there."""

    status: int
    headers: list[tuple[str, str]]
    """Without `content-length`; no value holds a control character."""
    body: bytes


class AtOnce(NamedTuple):
    """How an application answers small requests without ASGI: its attribute `at_once`."""

    paths: Collection[bytes]
    """Of POST requests that are answered so."""
    answer: Callable[[bytes, list[tuple[bytes, bytes]], Mapping[str, str], bytes, float], Whole | None]
    """Path, headers with names in lower case, the same to look into, body, and how long the head was held for it in
    seconds. None = it takes longer; then nothing has happened. It never raises."""
    serve: Callable[[Cycle], Awaitable[None]]
    """Answers what takes longer."""


async def _nothing(_: Cycle) -> None:
    """Of an application that is shown no request."""


NEVER = AtOnce((), lambda _path, _raw, _headers, _body, _held: None, _nothing)


class Protocol(HttpToolsProtocol):
    """One connection of a caller."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """As uvicorn's."""
        super().__init__(config, server_state, app_state, _loop)
        at_once: AtOnce = getattr(config.app, "at_once", NEVER)
        self._paths, self._answer, self._serve = at_once
        self._body: bytes | None = None
        """What has come of the body of a small request; None = there is no such request."""
        self._asked: Mapping[str, str] = {}
        """Its headers."""
        self._serving: Cycle | None = None
        self._begun: RequestResponseCycle | None = None
        """The last one that was begun the ASGI way."""
        self._held: asyncio.TimerHandle | None = None
        self._held_since = 0.0
        self._stage = _NONE
        """What of a request is awaited."""
        self._beside = 0
        """Bytes in a row that were no body."""
        self._late: asyncio.TimerHandle | None = None
        """Of a head that came in pieces."""
        self._head_of: list[tuple[bytes, bytes]] = []
        self._head = b""
        self._idle_since = math.inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.wire = HeadWaits(cast(asyncio.Transport, transport))
        super().connection_made(self.wire)
        self._idle_since = self.loop.time()
        self._watch_idle(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._give_up()
        if self._serving is not None:
            self._serving.leave()
            self._serving = None
        begun = self._begun
        if begun is not None and not begun.response_complete:  # uvicorn tells the last request alone
            begun.disconnected = True
            begun.message_event.set()
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()
        self._in_time()

    def shutdown(self) -> None:
        """Called by the server when it stops: what has begun is answered first."""
        self._give_up()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._beside += len(data)
        super().data_received(data)
        if self._stage:
            self._await_more()

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins; its scope is made when it is needed."""
        self._stage, self._beside = _HEAD, 0
        self._idle_since = math.inf
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._stage = _BODY
        if self._late is not None:
            self._in_time()
        if self.url in self._paths and self._plain(headers := headers_of(self.headers)):
            self._asked = headers
            self._body = b""
        else:
            self._go_on()

    def on_body(self, body: bytes) -> None:
        """A piece of its body is here."""
        self._beside = 0
        if self._body is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._stage = _NONE
        body = self._body
        if body is None:
            super().on_message_complete()
            return
        held = self._let_go()
        whole = self._answer(self.url, self.headers, self._asked, body, held)
        if whole is None:
            self._serving = cycle = Cycle(self, self.url.decode(), self.headers, self._asked, body, held)
            self.cycle = cycle  # type: ignore[assignment]  # uvicorn asks it whether the answer is complete
            cycle.start(self._serve, self.tasks)
        else:
            self.wire.write_whole(self.head(whole.status, [*whole.headers, _length(whole.body)]), whole.body)
            self.on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._begun = cycle
        super()._start_asgi_task(cycle, app)

    # a request of which something is missing

    def _await_more(self) -> None:
        if self._beside > MAX_HEAD_BYTES:
            self._refuse(f"A request's head may have {MAX_HEAD_BYTES} bytes.")
        elif self._stage == _HEAD:
            if self._late is None:
                message = f"A request's head has to arrive within {HEAD_SECONDS:g} seconds."
                self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, message)
        elif self._body is not None and self._held is None:
            self._held_since = time.perf_counter()
            self._held = self.loop.call_later(HOLD_SECONDS, self._give_up)

    def _refuse(self, message: str) -> None:
        """End the connection; who waits for an answer on it is told nothing that could be taken for that."""
        self._let_go()
        self._stage = _NONE
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response(message)
        else:
            self.transport.close()

    def _in_time(self) -> None:
        late, self._late = self._late, None
        if late is not None:
            late.cancel()

    # a small request that is read whole

    def _plain(self, headers: Mapping[str, str]) -> bool:
        """Whether nothing about a request or its connection is for uvicorn to handle: a small POST that waits for none
        before it, and that is not the last one."""
        parser = self.parser
        size = headers.get("content-length", "0")  # the parser has checked the digits
        return (
            len(size) <= 5
            and 0 < int(size) <= SMALL_BODY_BYTES
            and parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and parser.should_keep_alive()
            # Without the header what stays is HTTP/1.1, and nothing is upgraded.
            and ("connection" not in headers or (parser.get_http_version() == "1.1" and not parser.should_upgrade()))
            and not self.transport.is_closing()
        )

    def _let_go(self) -> float:
        """Hold a request no longer; for how many seconds it was held."""
        self._body = None
        if self._held is None:
            return 0.0
        self._held.cancel()
        self._held = None
        return time.perf_counter() - self._held_since

    def _give_up(self) -> None:
        """Send a request that is held the ASGI way, with what has come of its body."""
        body = self._body
        if body is not None:
            self._go_on(body, self._let_go())

    def _go_on(self, body: bytes = b"", held: float = 0.0) -> None:
        """The ASGI way, from the head of a request on."""
        if len(self.pipeline) >= MOST_WAITING:
            self.transport.abort()
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        if held:
            self.scope[HELD_KEY] = held  # type: ignore[literal-required]
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        """Of an answer, as uvicorn's cycle makes it; raises RuntimeError for a value that no header may have."""
        default = self.server_state.default_headers
        if self._head_of is not default:  # uvicorn makes another list each second, for the date
            self._head_of = default
            self._head = b"".join([name + b": " + value + b"\r\n" for name, value in default])
        lines = [*map(": ".join, headers), "\r\n"]
        text = "\r\n".join(lines).encode("latin-1", "replace")
        # There are two for each end of a line, and none in a line.
        if len(text) - len(text.translate(None, _CONTROLS)) != 2 * len(lines):
            raise RuntimeError("a control character in a header")
        return STATUS_LINE[status] + self._head + text

    # a connection that is idle: one timer for all its pauses, where uvicorn makes and ends one for each

    def on_response_complete(self) -> None:
        """An answer is written: the next that waits, or a pause."""
        self.server_state.total_requests += 1
        self._serving = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idle(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """The timer: closes a connection on which nothing has come since the last answer."""
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            super().timeout_keep_alive_handler()
        elif left < math.inf:
            self._watch_idle(left)

    def _watch_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Not for any byte that comes: a request has to begin."""


def _length(body: bytes) -> tuple[str, str]:
    return "content-length", str(len(body))
