"""The model's place in a measurement: answers at once, or streams a chunk each 10 ms, and counts what it was asked.

`python -m benchmarks.stub` serves until SIGTERM and says where in one JSON line. It is a bare protocol on uvloop, so
that what is measured is the gateway in front of it. /stats tells the counts, POST /delay/<milliseconds> sets how long
an unstreamed answer takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

from benchmarks._http import HEAD_END, LAST_CHUNK, dechunked, request_length
from local.announce import announce

MODEL = "gpt-6.1-terra"
ANSWER_BYTES = 662
CHUNKS = 42
CHUNK_SECONDS = 0.010
MAX_REQUEST_BYTES = 1 << 20
_STREAM = re.compile(rb'"stream":\s*true')


def answer_body() -> bytes:
    """A whole chat completion of ANSWER_BYTES bytes."""
    message: dict[str, object] = {"role": "assistant", "content": "", "refusal": None, "annotations": []}
    document = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1_795_305_600,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(),
        "service_tier": "default",
    }
    missing = ANSWER_BYTES - len(json.dumps(document))
    message["content"] = ("A sentence as models write it. " * ANSWER_BYTES)[:missing]
    return json.dumps(document).encode()


def stream_events() -> list[bytes]:
    """The CHUNKS events of a streamed chat completion; the last one holds the usage."""
    finish: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    finish += [({"content": f" word{index:02d}"}, None) for index in range(CHUNKS - 3)]
    finish += [({}, "stop")]
    choices = [[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}] for delta, end in finish]
    return [_event(one, None) for one in choices] + [_event([], _usage())]


def _usage() -> dict[str, object]:
    return {
        "prompt_tokens": 60,
        "completion_tokens": 40,
        "total_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _event(choices: Sequence[Mapping[str, object]], usage: dict[str, object] | None) -> bytes:
    chunk = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1_795_305_600,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }
    return b"data: %b\n\n" % json.dumps(chunk).encode()


def whole(body: bytes, status: str = "200 OK") -> bytes:
    """A complete answer with a JSON body."""
    return (
        b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nx-request-id: req_stub\r\nContent-Length: %d\r\n\r\n%b"
        % (
            status.encode(),
            len(body),
            body,
        )
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = whole(answer_body())
PIECES = [_chunk(event) for event in stream_events()]
PIECES[0] = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nx-request-id: req_stub\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + PIECES[0]
)
PIECES[-1] += _chunk(b"data: [DONE]\n\n") + LAST_CHUNK


@dataclass
class Stats:
    """What was asked so far."""

    requests: int = 0
    """Unstreamed ones."""
    streams: int = 0
    streams_ended: int = 0
    connections: int = 0


@dataclass
class Shared:
    """What all connections of one stub share."""

    stats: Stats
    delay_seconds: float = 0.0


class StubProtocol(asyncio.Protocol):
    """One connection; requests on it are answered one after the other."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio calls it."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not derive from it
        self._shared.stats.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody waits for what was still to come."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """asyncio calls it; answers every request that is complete."""
        self._buffer += data
        while self._buffer:
            head, separator, rest = self._buffer.partition(HEAD_END)
            if not separator:
                if len(head) > MAX_REQUEST_BYTES and self._transport is not None:
                    self._transport.close()
                return
            length = request_length(head)
            if length is None:
                found = dechunked(rest)
                if found is None:
                    return
                body, self._buffer = found
            elif len(rest) < length:
                return
            else:
                body, self._buffer = rest[:length], rest[length:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        shared = self._shared
        if head.startswith(b"POST /v1/"):
            if _STREAM.search(body):
                shared.stats.streams += 1
                self._stream(0, self._loop.time())
                return
            shared.stats.requests += 1
            if shared.delay_seconds:
                self._timer = self._loop.call_later(shared.delay_seconds, self._write, ANSWER)
            else:
                self._write(ANSWER)
        elif head.split(b" ", 2)[1] == b"/stats":
            self._write(whole(json.dumps(asdict(shared.stats)).encode()))
        elif head.startswith(b"POST /delay/"):
            shared.delay_seconds = int(head.split(b" ")[1].removeprefix(b"/delay/")) / 1000
            self._write(whole(b"{}"))
        else:
            self._write(whole(b"{}", "404 Not Found"))

    def _stream(self, index: int, started: float) -> None:
        self._write(PIECES[index])
        index += 1
        if index < CHUNKS:
            # From the start and not from now: lateness of one chunk must not add up.
            self._timer = self._loop.call_at(started + index * CHUNK_SECONDS, self._stream, index, started)
        else:
            self._shared.stats.streams_ended += 1

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    shared = Shared(Stats())
    server = await loop.create_server(lambda: StubProtocol(shared), "127.0.0.1", port, backlog=2048)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    announce({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"})
    await ended.wait()
    server.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    port: int = parser.parse_args().port
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(port))


if __name__ == "__main__":
    main()
