"""Identical requests over three replicas are one call to OpenAI; a leader that is killed costs one more."""

from __future__ import annotations

import asyncio
import signal

from tests.prove.fleet import PATH, Answer, Claim, Fleet, body_of, send

THINKS_SECONDS = 1.5


async def _ask_all(fleet: Fleet, key: str, body: bytes, waiters: int) -> list[Answer | BaseException]:
    ports = [replica.port for replica in fleet.replicas]
    asked = [send(ports[index % len(ports)], key, body) for index in range(waiters)]
    return await asyncio.gather(*asked, return_exceptions=True)


def _answered(found: list[Answer | BaseException]) -> list[Answer]:
    return [answer for answer in found if isinstance(answer, Answer) and answer.status == 200]


async def identical(fleet: Fleet, waiters: int, *, stream: bool) -> Claim:
    """Everybody asks the same at once."""
    before = len(fleet.upstream.requests())
    fleet.upstream.fault("delay", seconds=THINKS_SECONDS, match={"path": PATH})
    body = body_of(f"What do {waiters} ask at once?", stream=stream)
    good = _answered(await _ask_all(fleet, fleet.key("waiters"), body, waiters))
    calls = len(fleet.upstream.requests()) - before
    kind = "stream" if stream else "whole"
    return Claim(
        f"{waiters} identical waiters on {len(fleet.replicas)} replicas, {kind}",
        "1 call, all answered",
        f"{calls} call(s), {len(good)} answered",
        calls == 1 and len(good) == waiters,
    )


async def killed(fleet: Fleet, waiters: int) -> Claim:
    """The same, and the replica that asks is killed while OpenAI thinks. It ends one replica of the fleet."""
    before = len(fleet.upstream.requests())
    fleet.upstream.fault("delay", seconds=THINKS_SECONDS, match={"path": PATH})
    key, body = fleet.key("waiters"), body_of(f"What do {waiters} ask when a leader dies?")
    leader, *others = fleet.replicas
    first = asyncio.create_task(send(leader.port, key, body))
    await asyncio.sleep(THINKS_SECONDS / 3)
    ports = [replica.port for replica in others]
    rest = [asyncio.create_task(send(ports[index % len(ports)], key, body)) for index in range(waiters)]
    await asyncio.sleep(THINKS_SECONDS / 3)
    leader.process.send_signal(signal.SIGKILL)
    good = _answered(list(await asyncio.gather(*rest, return_exceptions=True)))
    await asyncio.gather(first, return_exceptions=True)
    calls = len(fleet.upstream.requests()) - before
    return Claim(
        f"{waiters} identical waiters, their leader killed",
        "at most 2 calls, all answered",
        f"{calls} call(s), {len(good)} answered",
        calls <= 2 and len(good) == waiters,
    )
