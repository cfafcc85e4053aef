"""OpenAI's Files and Batch APIs, as far as deferral needs them. Importing `openai` is left to the first call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from app.errors import BILLING_CODES
from app.observability.metrics import KEY_BREAKER_OPEN

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

    from app.services import Services

CALL_SECONDS = 60.0
"""For one call; an upload of the largest job is 32 MB."""
JOB_FIELD, STACK_FIELD = "prodkit_job", "prodkit_stack"
"""Names in a batch's metadata: how a batch is found whose making nobody wrote down."""
FILE_SECONDS = 3 * 24 * 3600
"""OpenAI deletes what was uploaded and what it wrote this long after; the worker does so once it is filed."""
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
CLOCK_SKEW_SECONDS = 300
MOST_PAGES = 100  # of 100 batches: five times what OpenAI lets anyone make in an hour
_PASSING = frozenset({401, 403, 408, 409, 429})


class BatchAwayError(Exception):
    """OpenAI did not do as asked now, and may later. The text says why, without any secret."""

    def __init__(self, reason: str, *, perhaps_done: bool) -> None:
        """`perhaps_done`: what was asked may have happened all the same."""
        super().__init__(reason)
        self.perhaps_done = perhaps_done


class BatchRefusedError(Exception):
    """OpenAI will never do this. The text is OpenAI's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class BatchApi:
    """Calls on the account of the OpenAI key. Every method raises BatchAwayError or BatchRefusedError."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._client: AsyncOpenAI | None = None

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.close()

    async def upload(self, job: str, content: bytes) -> str:
        """The id of a new file."""
        async with self._calling() as client:
            made = await client.files.create(
                file=(f"{job}.jsonl", content),
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": FILE_SECONDS},
            )
        return made.id

    async def create(self, job: str, file_id: str, endpoint: Any) -> Batch:
        """A new batch. Never tried again by itself: a batch that was made is paid for."""
        async with self._calling() as client:
            return await client.with_options(max_retries=0).batches.create(
                input_file_id=file_id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={JOB_FIELD: job, STACK_FIELD: self._services.settings.stack},
                output_expires_after={"anchor": "created_at", "seconds": FILE_SECONDS},
            )

    async def find(self, job: str, since: float) -> Batch | None:
        """The batch of a job that was made after a Unix time. Of two, the later is cancelled: one is enough."""
        found = []
        async with self._calling() as client:
            page = await client.batches.list(limit=100)
            for _ in range(MOST_PAGES):
                found += [batch for batch in page.data if (batch.metadata or {}).get(JOB_FIELD) == job]
                older = page.data and page.data[-1].created_at < since - CLOCK_SKEW_SECONDS
                if older or not page.has_next_page():
                    break
                page = await page.get_next_page()
        found.sort(key=lambda batch: batch.created_at)
        for batch in found[1:]:
            if batch.status not in OVER:
                await self.cancel(batch.id)
        return found[0] if found else None

    async def retrieve(self, batch_id: str) -> Batch:
        """A batch as it is now."""
        async with self._calling() as client:
            return await client.batches.retrieve(batch_id)

    async def cancel(self, batch_id: str) -> None:
        """Ask for the end of a batch; one that has ended meanwhile is no error."""
        with contextlib.suppress(BatchAwayError):  # 409: too late. Whoever asks sees it at the next look.
            async with self._calling() as client:
                await client.batches.cancel(batch_id)

    async def lines(self, file_id: str | None) -> AsyncIterator[dict[str, Any]]:
        """The lines of a file of JSON lines, read as they arrive; none for no file."""
        if file_id is None:
            return
        async with self._calling() as client, client.files.with_streaming_response.content(file_id) as response:
            rest = b""
            async for piece in response.iter_bytes():
                # Not by the SDK's lines: those also end at separators that JSON may hold inside of a string.
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    if line:
                        yield orjson.loads(line)
            if rest:
                yield orjson.loads(rest)

    async def forget(self, *file_ids: str | None) -> None:
        """Delete files; OpenAI does so itself later for those that cannot be deleted now."""
        for file_id in file_ids:
            if file_id:
                with contextlib.suppress(BatchAwayError, BatchRefusedError):
                    async with self._calling() as client:
                        await client.files.delete(file_id)

    @contextlib.asynccontextmanager
    async def _calling(self) -> AsyncIterator[AsyncOpenAI]:
        """The client with the key in force, and its exceptions as ours."""
        key = await self._services.openai_key.get()
        if key is None:
            raise BatchAwayError("no OpenAI API key is set yet", perhaps_done=False)
        if self._client is None:
            self._client = await asyncio.to_thread(_make, self._services.settings.openai_base_url)
        with _errors(self._services):
            try:
                yield self._client.with_options(api_key=key)
            except Exception as error:
                if getattr(error, "status_code", None) == 401:
                    await self._services.openai_key.refresh(key)
                raise


@contextlib.contextmanager
def _errors(services: Services) -> Iterator[None]:
    from openai import APIConnectionError, APIStatusError, OpenAIError

    try:
        yield
    except APIStatusError as error:
        code = error.code or f"status {error.status_code}"
        if code in BILLING_CODES:
            services.metrics.count(KEY_BREAKER_OPEN)
        if error.status_code in _PASSING:
            raise BatchAwayError(code, perhaps_done=error.status_code == 408) from error
        if error.status_code >= 500:
            raise BatchAwayError(code, perhaps_done=True) from error
        raise BatchRefusedError(error.status_code, code, error.message) from error
    except APIConnectionError as error:
        raise BatchAwayError("OpenAI cannot be reached", perhaps_done=True) from error
    except (OpenAIError, orjson.JSONDecodeError) as error:
        raise BatchAwayError(type(error).__name__, perhaps_done=True) from error


def _make(base_url: str) -> AsyncOpenAI:
    import httpx2
    from openai import AsyncOpenAI

    # trust_env=False: the key goes to the address that the settings name and to no proxy of an environment.
    http = httpx2.AsyncClient(timeout=CALL_SECONDS, trust_env=False)
    return AsyncOpenAI(api_key="set for each call", base_url=base_url, timeout=CALL_SECONDS, http_client=http)
