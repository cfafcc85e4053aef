"""Callers of a running gateway: some read long streams, some ask short questions, and each notes what it got."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from local.openai.answers import words

ASK_SECONDS = 0.2
"""Between two short questions."""
ANSWER_SECONDS = 60.0
STREAM_SECONDS = 240.0
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


class CutError(Exception):
    """An answer that is not what was asked for; the text says how."""


@dataclass
class Stream:
    """One streamed answer as its caller sees it."""

    number: int
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the first text, or when it ended without any."""
    text: str = ""
    opened_at: float = 0.0
    ended_at: float = 0.0
    """Both by `time.monotonic`; 0 until then."""
    problem: str | None = None
    """Why the answer is not whole."""

    @property
    def seconds(self) -> float:
        """How long it lived."""
        return self.ended_at - self.opened_at

    def open_at(self, moment: float) -> bool:
        """Whether it was live at a moment of `time.monotonic`."""
        return 0 < self.opened_at <= moment and (self.ended_at == 0 or self.ended_at > moment)


@dataclass
class Questions:
    """The short requests of a run."""

    asked: int = 0
    answered: int = 0
    refusals: list[str] = field(default_factory=list)
    """A line for each that got no answer."""


class Callers:
    """Sends requests with one key. No request is sent twice: what fails is seen."""

    def __init__(self, session: aiohttp.ClientSession, address: str, api_key: str) -> None:
        """`address` has no slash at its end; the session has no limit of connections."""
        self._session = session
        self._url = f"{address}/v1/responses"
        self._headers = {"Authorization": f"Bearer {api_key}"}

    async def read(self, stream: Stream, count: int) -> None:
        """Ask for `count` words as a stream and read it to its end."""
        try:
            async with asyncio.timeout(STREAM_SECONDS):
                await self._read(stream, count)
        except TimeoutError:
            stream.problem = f"it was not over after {STREAM_SECONDS:.0f} s"
        except (CutError, aiohttp.ClientError) as error:
            stream.problem = str(error) or type(error).__name__
        finally:
            stream.ended_at = time.monotonic()
            stream.begun.set()

    async def _read(self, stream: Stream, count: int) -> None:
        # no two callers ask the same, so that no answer comes from the cache
        question = f"Caller {stream.number}: write {count} words."
        body = {**_body(question, output_tokens=2 * count + 64), "stream": True}
        async with self._session.post(self._url, json=body, headers=self._headers) as answer:
            stream.opened_at = time.monotonic()
            if answer.status != 200:
                raise CutError(f"it was refused with {answer.status}: {(await answer.text())[:200]}")
            terminal = None
            async for event in _events(answer):
                if event["type"] == "response.output_text.delta":
                    stream.text += event["delta"]
                    stream.begun.set()
                elif event["type"] in _TERMINAL:
                    terminal = event["type"]
        if terminal != "response.completed":
            raise CutError(f"it ended with {terminal or 'no terminal event'} after {len(stream.text.split())} words")
        if stream.text != words(count):
            raise CutError(f"its text is not the one that was asked for: {len(stream.text.split())} words")

    async def ask(self, questions: Questions) -> None:
        """Ask short questions one after the other without waiting for answers, until cancelled; then wait for those."""
        open_questions: set[asyncio.Task[None]] = set()
        try:
            for number in itertools.count(1):
                asking = asyncio.create_task(self._ask(questions, number))
                open_questions.add(asking)
                asking.add_done_callback(open_questions.discard)
                await asyncio.sleep(ASK_SECONDS)
        except asyncio.CancelledError:
            await asyncio.gather(*open_questions)

    async def _ask(self, questions: Questions, number: int) -> None:
        questions.asked += 1
        body = _body(f"Question {number}: answer in 3 words.", output_tokens=16)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with self._session.post(self._url, json=body, headers=self._headers, timeout=timeout) as answer:
                if answer.status == 200 and (await answer.json())["status"] == "completed":
                    questions.answered += 1
                else:
                    questions.refusals.append(f"{answer.status}: {(await answer.text())[:200]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            questions.refusals.append(str(error) or type(error).__name__)


@contextlib.asynccontextmanager
async def callers(address: str, api_key: str) -> AsyncIterator[Callers]:
    """Callers with connections of their own."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield Callers(session, address, api_key)


def _body(question: str, output_tokens: int) -> dict[str, Any]:
    """A request whose model does not think first."""
    return {
        "model": "fast",
        "input": question,
        "reasoning": {"effort": "none"},
        "max_output_tokens": output_tokens,
    }


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; comments and the names that the data repeat are left out."""
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))
