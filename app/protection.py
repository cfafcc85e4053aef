"""Ask ECS not to stop this task while it works: scale-in protection, set by the first job and cleared after the last.

Neither autoscaling nor a deployment stops a protected task, so a document that takes a while is not read twice.
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

PATH = "/task-protection/v1/state"
EXPIRES_MINUTES = 60
"""ECS refuses to renew the protection of a task that a deployment replaces (DEPLOYMENT_BLOCKED), so the first one has
to last for the longest job by itself; it is also the longest that a task which hangs can delay a deployment."""
RENEW_SECONDS = EXPIRES_MINUTES * 60 / 4
RETRY_SECONDS = 30.0
CLEARINGS = 3
"""After so many that failed, the protection is left to expire."""
ANSWER_SECONDS = 5.0
"""The agent itself gives ECS four."""
ANSWER_BYTES = 1 << 16

log = logging.getLogger(__name__)


class TaskProtection:
    """Counts the jobs in hand and keeps the agent told. What goes wrong is logged and never stops a job."""

    def __init__(
        self, agent_uri: str | None, *, renew_seconds: float = RENEW_SECONDS, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        """`agent_uri` is ECS_AGENT_URI; None outside of ECS, where nobody stops a task and nothing is done."""
        self._agent_uri = agent_uri
        self._renew_seconds = renew_seconds
        self._retry_seconds = retry_seconds
        self._jobs = 0
        self._idle = asyncio.Event()
        self._telling = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._uncertain = False
        """Whether the agent was told to clear the protection and did not confirm it."""

    @contextlib.asynccontextmanager
    async def job(self) -> AsyncIterator[None]:
        """Hold the task while the block runs; the first of several jobs waits until the agent has answered."""
        self._jobs += 1
        self._idle.clear()
        try:
            await self._begin()
            yield
        finally:
            self._jobs -= 1
            if not self._jobs:
                self._idle.set()

    async def close(self) -> None:
        """Stop renewing. The protection ends with the task, so it is not cleared."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _begin(self) -> None:
        if self._agent_uri is None:
            return
        async with self._telling:
            if self._keeper is not None and not self._keeper.done() and not self._uncertain:
                return
            protected = await self._tell(True)
            self._uncertain = False
            if self._keeper is None or self._keeper.done():
                self._keeper = asyncio.create_task(self._keep(protected), name="protection")

    async def _keep(self, protected: bool) -> None:
        """Renew while there is work, and clear once there is none; a clearing that fails is tried a few times more."""
        failures = 0
        while failures < CLEARINGS:
            try:
                pause = self._renew_seconds if protected else self._retry_seconds
                await asyncio.wait_for(self._idle.wait(), pause)
            except TimeoutError:
                failures, protected = 0, await self._tell(True)
                continue
            async with self._telling:
                if self._jobs:  # one began meanwhile, for which the protection goes on
                    continue
                if await self._tell(False):
                    return
                self._uncertain = True
            failures += 1
            await asyncio.sleep(self._retry_seconds)

    async def _tell(self, protect: bool) -> bool:
        """Whether the agent confirmed it; says why not in the log."""
        assert self._agent_uri is not None
        wanted: dict[str, object] = {"ProtectionEnabled": protect}
        if protect:
            wanted["ExpiresInMinutes"] = EXPIRES_MINUTES
        try:
            problem = _problem(await asyncio.to_thread(_put, self._agent_uri.rstrip("/") + PATH, wanted), protect)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = type(error).__name__
        if problem:
            about = {"reason": problem, "protect": protect}
            log.warning("this task's protection could not be changed", extra={"fields": about})
        return not problem


def _put(address: str, content: object) -> object:
    """The JSON answer, whatever its status: errors of the agent have a body that says more than the status."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    with contextlib.closing(connection):
        connection.request("PUT", parts.path, json.dumps(content), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read(ANSWER_BYTES))


def _problem(answer: object, protect: bool) -> str:
    """Why an answer is no confirmation; empty when it is one.

    `protection` is what ECS now holds, `failure` says why it refused, `error` that it could not be asked.
    """
    if not isinstance(answer, dict):
        return "unknown answer"
    for part, name in (("error", "Code"), ("failure", "Reason")):
        if isinstance(answer.get(part), dict):
            return str(answer[part].get(name) or part)
    held = answer.get("protection")
    if not isinstance(held, dict) or held.get("ProtectionEnabled") is not protect:
        return "unknown answer"
    return ""
