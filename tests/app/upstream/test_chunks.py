"""Chunks that come whole do not go through the parser, and mean the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.upstream.http_client import Connection
from app.upstream.response import CutError
from tests.app.upstream.scripted import CHUNKED

CHUNKS = [
    b"1\r\nx\r\n",
    b"15\r\nhello\r\nhello, you there\r\n",
    b"6\r\n1\r\nx\r\n\r\n",
    b"5\r\ntwist\r\n",
    b"A\r\n0123456789\r\n",
    b"05\r\nhello\r\n",
]
CHUNKS += [b"%x\r\n%b\r\n" % (size, bytes(size)) for size in (15, 16, 255, 256, 4_095, 4_096)]
CHUNKS += [b"5;x=y\r\nhello\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n\r\n"]
BROKEN = [
    b"+5\r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\r\nhello!\r\n",
    b"5\r\nhell\r\n\r\n",
]
BROKEN += [
    b"4\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"_5\r\nhello\r\n",
    b"5\r\ntwist\n\n",
    b"-\r\n",
    b"-2\r\n1\r\nx\r\n",
    b"\r\n",
    b"\r\n\r\n",
]


BEGIN = CHUNKED + b"1\r\ny\r\n"


class NoWire(asyncio.Transport):
    """A transport to nowhere."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: object) -> None: ...

    def abort(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


async def heard(pieces: list[bytes]) -> tuple[bytes, bool, type[Exception] | None]:
    """The body of an answer that arrives in these pieces, whether it is whole, and what is wrong with it."""
    connection = Connection(lambda _: None, lambda _: None)
    connection.connection_made(NoWire())
    asking = asyncio.create_task(connection.ask(b"", b""))
    await asyncio.sleep(0)
    connection.data_received(BEGIN + pieces[0])
    response = await asking
    heard: list[bytes] = []

    def listener() -> None:
        with contextlib.suppress(CutError):
            heard.append(response.take() or b"")

    def taker(piece: bytes, chunk: bytes) -> bool:
        assert chunk == b"%x\r\n%b\r\n" % (len(piece), piece)
        if taken := piece[-1] % 2 == 0:
            heard.append(piece)
        return taken

    listener()
    response.listen(listener, taker)
    for piece in pieces[1:]:
        if response.complete:
            break  # what follows is another matter
        connection.data_received(piece)
    complete, error = response.complete, response._error
    response.close()
    return b"".join(heard), complete, None if error is None else type(error)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(CHUNKS), min_size=1, max_size=5), st.sampled_from([b"", *BROKEN]), st.data())
def test_chunks_mean_the_same_however_they_are_read(chunks: list[bytes], broken: bytes, data: st.DataObject) -> None:
    flow = b"".join([*chunks[:3], broken, *chunks[3:]])
    lines = [at + 2 for at in range(len(flow)) if flow[at : at + 2] == b"\r\n"]
    likely = st.sampled_from(sorted({*lines, *(at + 1 for at in lines if at < len(flow))}))
    cuts = data.draw(st.lists(likely | st.integers(0, len(flow)), max_size=6) | st.just(lines))
    apart = [flow[a:b] for a, b in itertools.pairwise([0, *sorted({*cuts, len(flow)} - {0})])]

    assert asyncio.run(heard([b"", *apart])) == asyncio.run(heard([flow]))


@pytest.mark.parametrize(
    "pieces",
    [
        [b"6\r\n", b"1\r\nx\r\n", b"\r\n0\r\n\r\n"],
        [b"1", b"5\r\nhello\r\n", b"hello, you there\r\n0\r\n\r\n"],
        [b"5\r\nhello\r\n", b"0\r\n", b"1\r\nx\r\n"],
    ],
    ids=["a body", "a size", "a trailer"],
)
async def test_what_only_looks_like_a_chunk_is_none(pieces: list[bytes]) -> None:
    assert await heard(pieces) == await heard([b"".join(pieces)])
