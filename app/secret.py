"""The OpenAI key: read from Secrets Manager while the task runs, so that a rotated key needs no deploy."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable

from app.aws import Aws, error_code

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0  # older values are read again in the background
STALE_SECONDS = 300.0  # older values are read again before use: the replica had no traffic
MISSING_SECONDS = 5.0  # how soon a key that was just set is seen
REFRESH_PAUSE_SECONDS = 5.0  # between two reads after a 401: a dead key must not become a storm of reads
READ_SECONDS = 5.0
_UNSET = frozenset({"ResourceNotFoundException", "InvalidRequestException"})  # no value yet; marked for deletion
_KEY = re.compile(r"[\x21-\x7e]{1,1024}")  # what may stand in a header


class OpenAIKey:
    """The key in force. It is in no repr, log line or error of this class."""

    def __init__(self, aws: Aws, arn: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._aws = aws
        self._arn = arn
        self._clock = clock
        self._value: str | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._problem = ""

    @property
    def is_set(self) -> bool:
        """Whether the last read found a key."""
        return self._value is not None

    def at_hand(self) -> str | None:
        """The key when it needs no reading; else None, and `get` is to be asked."""
        return self._value if self._clock() - self._read_at <= REFRESH_SECONDS else None

    async def get(self) -> str | None:
        """The key, or None while none was set; never raises. It waits only when the last value is missing or old."""
        age = self._clock() - self._read_at
        if self._value is None:
            if age > MISSING_SECONDS:
                await self._read_once()
        elif age > STALE_SECONDS:
            await self._read_once()
        elif age > REFRESH_SECONDS:
            self._begin_reading()
        return self._value

    async def refresh(self, stale: str) -> str | None:
        """The key to try after OpenAI refused `stale`; the same one when Secrets Manager holds no other; never raises.

        The first of many callers reads, the others wait for it.
        """
        if self._value == stale and self._clock() - self._read_at > REFRESH_PAUSE_SECONDS:
            await self._read_once()
        return self._value

    async def _read_once(self) -> None:
        # Shielded: the caller that began the read may go away while others wait for it.
        await asyncio.shield(self._begin_reading())

    def _begin_reading(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="openai-key")
        return self._reading

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                answer = await self._aws.call("secretsmanager", "get_secret_value", SecretId=self._arn)
            self._value = parse_key(answer.get("SecretString"))
            problem = "" if self._value else "the secret holds no key"
        except Exception as error:
            code = error_code(error)
            if code in _UNSET:
                self._value = None
            # Otherwise the last value stays: Secrets Manager being away says nothing about the key.
            problem = code
        self._read_at = self._clock()
        if problem != self._problem:
            log.warning("OpenAI key", extra={"fields": {"problem": problem or "none, it is set", "secret": self._arn}})
            self._problem = problem


def parse_key(text: str | None) -> str | None:
    """The key in a secret's string: the string itself, or `api_key` of a JSON object; None when there is none."""
    text = (text or "").strip()
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except ValueError:
            return None
        value = document.get("api_key")
        text = value.strip() if isinstance(value, str) else ""
    return text if _KEY.fullmatch(text) else None
