"""Calls of one kind share a request to OpenAI; none waits without need, and none pays or fails for another."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from app.errors import ApiError
from app.models import Models, default_document
from app.observability.metrics import MERGED_CALLS, MERGED_REQUESTS, Metrics
from app.pipeline.answer import Answer
from app.pipeline.choose import Plan, make_plan
from app.pipeline.endpoints import EMBEDDINGS
from app.pipeline.merge import MOST_TEXTS, WAIT_SECONDS, Merger, Part
from tests.app.pipeline.test_merged_parts import embedded
from tests.patience import PATIENCE_SECONDS

MODELS = Models(default_document())


class OpenAI:
    """Answers when it is told to, and remembers what it was asked; refuses a call with the text `poison`."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.asked_twice = asyncio.Event()
        self.broken_off = 0
        self.error: ApiError | None = None
        self.status = 200

    async def send(self, plan: Plan) -> Answer:
        content = plan.document["input"]
        texts = content if isinstance(content, list) else [content]
        self.asked.append(texts)
        if len(self.asked) == 2:
            self.asked_twice.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        if self.error is not None:
            raise self.error
        status = 400 if "poison" in texts else self.status
        if status != 200:
            document = {"error": {"message": "no", "type": "t", "param": "input", "code": "c"}}
            return Answer(status, [], orjson.dumps(document), document, "req_bad")
        return embedded(texts, tokens=10 * len(texts))


class World:
    """A merger with its OpenAI."""

    def __init__(self) -> None:
        self.openai = OpenAI()
        self.metrics = Metrics("test", "web", write=lambda _line: None)
        self.merger = Merger(self.openai.send, self.metrics)

    def part(self, content: Any, tenant: str = "t1", **fields: Any) -> Part:
        part = self.merger.part(make_plan(EMBEDDINGS, {"model": "embed", "input": content, **fields}, MODELS), tenant)
        assert part is not None
        return part

    def ask(self, content: Any, tenant: str = "t1", **fields: Any) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.merger.ask(self.part(content, tenant, **fields)))


@pytest.fixture
async def world() -> World:
    return World()


def vectors(answer: Answer) -> list[Any]:
    return [item["embedding"][0] for item in answer.document["data"]]


async def turns(count: int = 5) -> None:
    """Let the loop turn, without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_call_alone_goes_out_without_a_timer_and_as_it_came(world: World) -> None:
    world.openai.open.clear()
    part = world.part("alone")
    asked = asyncio.create_task(world.merger.ask(part))
    await turns()
    assert world.openai.asked == [["alone"]]
    world.openai.open.set()
    assert vectors(await asked) == ["alone"]
    assert part.requests == 1


async def test_calls_of_one_turn_of_the_loop_share_a_request(world: World) -> None:
    asked = [world.ask(f"text {at}", tenant=f"t{at}") for at in range(5)]
    answers = await asyncio.gather(*asked)
    assert world.openai.asked == [[f"text {at}" for at in range(5)]]
    assert [vectors(answer) for answer in answers] == [[f"text {at}"] for at in range(5)]
    assert sum(answer.document["usage"]["total_tokens"] for answer in answers) == 50


async def test_while_one_is_in_flight_the_next_are_gathered_and_go_when_it_ends(world: World) -> None:
    world.openai.open.clear()
    first = world.ask("first")
    await turns()
    later = [world.ask(f"later {at}") for at in range(3)]
    await turns()
    assert world.openai.asked == [["first"]]
    world.openai.open.set()
    await asyncio.gather(first, *later)
    assert world.openai.asked == [["first"], ["later 0", "later 1", "later 2"]]


async def test_nobody_waits_longer_than_the_bound_for_a_slow_call(world: World) -> None:
    world.openai.open.clear()
    first = world.ask("slow")
    await turns()
    part = world.part("patient")
    asked = asyncio.create_task(world.merger.ask(part))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await world.openai.asked_twice.wait()
    assert world.openai.asked == [["slow"], ["patient"]]
    world.openai.open.set()
    await asyncio.gather(first, asked)
    assert part.waited_ms >= WAIT_SECONDS * 1000 * 0.9


async def test_a_full_call_goes_at_once(world: World) -> None:
    world.openai.open.clear()
    first = world.ask("first")
    await turns()
    rest = [world.ask(f"text {at}") for at in range(MOST_TEXTS)]
    await turns()
    assert [len(texts) for texts in world.openai.asked] == [1, MOST_TEXTS]
    world.openai.open.set()
    await asyncio.gather(first, *rest)


async def test_no_call_has_more_texts_than_the_bound(world: World) -> None:
    asked = [world.ask([f"{at}a", f"{at}b", f"{at}c"]) for at in range(30)]
    answers = await asyncio.gather(*asked)
    assert [vectors(answer) for answer in answers] == [[f"{at}a", f"{at}b", f"{at}c"] for at in range(30)]
    assert max(map(len, world.openai.asked)) <= MOST_TEXTS
    assert len(world.openai.asked) == 5


async def test_calls_that_differ_in_more_than_the_input_do_not_mix(world: World) -> None:
    await asyncio.gather(
        world.ask("a"), world.ask("b", dimensions=256), world.ask("c", user="u"), world.ask("d", "t2", user="u")
    )
    assert sorted(world.openai.asked) == [["a"], ["b"], ["c"], ["d"]]


async def test_a_refused_request_fails_alone(world: World) -> None:
    parts = [world.part(text) for text in ("good", "poison", "fine")]
    answers = await asyncio.gather(*map(world.merger.ask, parts))
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert vectors(answers[0]) == ["good"]
    assert vectors(answers[2]) == ["fine"]
    assert world.openai.asked == [["good", "poison", "fine"], ["good"], ["poison"], ["fine"]]


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_what_is_no_texts_fault_is_everybodys_and_is_not_asked_again(world: World, status: int) -> None:
    world.openai.status = status
    answers = await asyncio.gather(*(world.ask(text) for text in "abc"))
    assert [answer.status for answer in answers] == [status] * 3
    assert len(world.openai.asked) == 1


async def test_each_caller_is_told_of_a_failure_by_an_error_of_its_own(world: World) -> None:
    world.openai.error = ApiError("upstream_timeout", "too late", headers={"retry-after": "1"})
    first, second = await asyncio.gather(world.ask("a"), world.ask("b"), return_exceptions=True)
    assert isinstance(first, ApiError)
    assert isinstance(second, ApiError)
    assert first is not second
    assert (first.code, first.headers) == (second.code, second.headers) == ("upstream_timeout", {"retry-after": "1"})


async def test_a_caller_who_leaves_hurts_nobody(world: World) -> None:
    world.openai.open.clear()
    asked = [world.ask(text) for text in "abc"]
    await turns()
    asked[1].cancel()
    await turns()
    world.openai.open.set()
    first, left, third = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(left, asyncio.CancelledError)
    assert isinstance(first, Answer)
    assert isinstance(third, Answer)
    assert vectors(first) + vectors(third) == ["a", "c"]


async def test_a_caller_who_leaves_before_the_call_is_made_is_not_in_it_and_pays_nothing(world: World) -> None:
    world.openai.open.clear()
    first = world.ask("first")
    await turns()
    part = world.part("gone")
    leaving, staying = asyncio.create_task(world.merger.ask(part)), world.ask("stays")
    await turns()
    leaving.cancel()
    await turns()
    world.openai.open.set()
    await asyncio.gather(first, staying)
    assert world.openai.asked == [["first"], ["stays"]]
    assert part.sent_at is None


async def test_a_call_that_nobody_waits_for_is_broken_off(world: World) -> None:
    world.openai.open.clear()
    asked = [world.ask(text) for text in "ab"]
    await turns()
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await turns()
    assert world.openai.broken_off == 1
    world.openai.open.set()
    assert vectors(await world.ask("after")) == ["after"]


async def test_what_is_shared_is_counted(world: World) -> None:
    counted: dict[str, float] = {}
    world.metrics.count = lambda name, value=1: counted.update({name: counted.get(name, 0) + value})  # type: ignore[method-assign]
    await asyncio.gather(*(world.ask(text) for text in "abcd"))
    await world.ask("alone")
    assert counted == {MERGED_CALLS: 1, MERGED_REQUESTS: 4}


async def test_nothing_is_remembered_once_everything_is_answered(world: World) -> None:
    await asyncio.gather(*(world.ask("a", dimensions=at) for at in range(1, 50)))
    await turns()
    assert not world.merger._kinds
    assert not world.merger._tasks
