"""Long answers: what they take of the memory is bounded, whoever reads them or does not."""

from __future__ import annotations

import asyncio
import gc
from collections import deque

import orjson
import pytest

from app.errors import ApiError
from app.pipeline import long_answers
from app.pipeline.answer import OUTLINED_BYTES, answer_of, read_answer
from app.pipeline.endpoints import EMBEDDINGS, RESPONSES, Endpoint
from app.pipeline.long_answers import LONG_BYTES, LongAnswers
from tests.patience import PATIENCE_SECONDS

PIECE = 256 * 1024
USAGE = {"prompt_tokens": 2048, "total_tokens": 2048}


class Arriving:
    """A response whose pieces are read when they are there."""

    status = 200
    headers = ((b"content-type", b"application/json"),)
    media_type = "application/json"

    def __init__(self, pieces: int = 0, last: bytes = b"") -> None:
        self.pieces = deque([b"x" * PIECE] * pieces + [last] * bool(last) + [b""])
        self.released = False

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self.pieces.popleft()

    def release(self) -> None:
        self.released = True

    def header(self, name: bytes) -> None:
        return None


async def given(task: asyncio.Task[bytes]) -> bytes:
    """What was read; fails when it waits for room for ever."""
    return await asyncio.wait_for(task, PATIENCE_SECONDS)


async def turns(count: int = 200) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def reading(room: LongAnswers, pieces: int) -> tuple[Arriving, asyncio.Task[bytes]]:
    response = Arriving(pieces)
    return response, asyncio.create_task(room.read(response, b""))  # type: ignore[arg-type]


async def test_many_at_once_take_the_room_and_one_answer_more_and_all_are_read() -> None:
    room = LongAnswers(4 * PIECE)
    tasks, most = [reading(room, 10)[1] for _ in range(20)], 0
    answers = []
    while tasks:
        await asyncio.sleep(0)
        most = max(most, room.reading + room.unsent)
        answers += [task.result() for task in tasks if task.done()]
        tasks = [task for task in tasks if not task.done()]
        answers = [answer for answer in answers if len(answer) != 10 * PIECE]  # its caller has it at once
    assert answers == []
    assert 4 * PIECE < most <= (4 + 10 + 20) * PIECE, "and a piece of each"
    assert (room.reading, room.unsent) == (0, 0)


async def test_what_nobody_takes_lets_no_more_in_until_it_is_gone() -> None:
    room = LongAnswers(4 * PIECE)
    untaken = await given(reading(room, 6)[1])
    waiting = reading(room, 6)[1]
    await turns()
    assert not waiting.done()
    assert room.unsent == len(untaken) == 6 * PIECE
    del untaken
    gc.collect()
    assert await given(waiting) == b"x" * 6 * PIECE


async def test_whoever_is_given_up_or_breaks_off_leaves_its_room_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_answers, "MAX_ANSWER_BYTES", 8 * PIECE)
    room = LongAnswers(2 * PIECE)
    tasks = [reading(room, 6)[1] for _ in range(3)]
    await turns(4)
    tasks[0].cancel()
    await turns()
    assert [task.done() for task in tasks] == [True, True, False], "the third waits for the second's caller"
    assert len(await given(tasks.pop(1))) == 6 * PIECE
    gc.collect()
    assert len(await given(tasks.pop(1))) == 6 * PIECE
    with pytest.raises(ApiError, match="longer than"):
        await given(reading(room, 9)[1])
    tasks.clear()
    gc.collect()
    assert (room.reading, room.unsent) == (0, 0)


async def read(endpoint: Endpoint, body: bytes) -> tuple[object, int]:
    room, response = LongAnswers(LONG_BYTES), Arriving(last=body)
    answer = await read_answer(response, endpoint, "key", room)  # type: ignore[arg-type]
    assert response.released
    assert answer.body == body
    return answer.document, room.unsent


def vectors(size: int, **more: object) -> bytes:
    row = [0.0123456789] * 1_000
    data = [{"object": "embedding", "index": index, "embedding": row} for index in range(size // 13_000)]
    return orjson.dumps({"object": "list", **more, "data": data, "model": "text-embedding-3-large", "usage": USAGE})


async def test_a_long_answer_of_vectors_is_known_by_what_stands_around_them() -> None:
    body = vectors(OUTLINED_BYTES + 100_000)
    document, unsent = await read(EMBEDDINGS, body)
    assert document == {"object": "list", "data": [], "model": "text-embedding-3-large", "usage": USAGE}
    assert unsent == len(body) > OUTLINED_BYTES


@pytest.mark.parametrize("size", [20_000, LONG_BYTES + 100_000])
async def test_a_shorter_one_is_read_whole(size: int) -> None:
    body = vectors(size)
    document, unsent = await read(EMBEDDINGS, body)
    assert document == orjson.loads(body)
    assert unsent == (len(body) if size > LONG_BYTES else 0)


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda body: body[:-20],
        lambda body: b"<html>" + body,
        lambda body: body.replace(b'"usage":{', b'"usage":{{'),
        lambda body: b"[" + body + b"]",
    ],
    ids=["cut", "page", "broken", "list"],
)
def test_a_long_answer_that_is_none_is_refused(spoilt: object) -> None:
    body = spoilt(vectors(OUTLINED_BYTES + 100_000))  # type: ignore[operator]
    with pytest.raises(ApiError) as refused:
        answer_of(Arriving(), body, EMBEDDINGS, "key")  # type: ignore[arg-type]
    assert refused.value.code == "upstream_invalid_response"


def test_usage_before_the_vectors_or_a_list_after_them_is_found_as_well() -> None:
    body = orjson.dumps({"usage": USAGE, "data": [[1.5] * (OUTLINED_BYTES // 4)], "warnings": [["x"]], "model": "m"})
    document = answer_of(Arriving(), body, EMBEDDINGS, "key").document  # type: ignore[arg-type]
    assert (document["usage"], document["data"]) == (USAGE, [])


def test_a_long_text_is_parsed_whole() -> None:
    body = orjson.dumps({"data": ["a"], "output": [{"text": "x" * (OUTLINED_BYTES + 1)}], "usage": {}})
    assert answer_of(Arriving(), body, RESPONSES, "key").document == orjson.loads(body)  # type: ignore[arg-type]
