"""The mirror of OpenAI's limit, on a strict bucket in virtual time: late news neither forfeits it nor passes it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import ApiError
from app.limits import Caller, Limiter, Limits, Policy
from tests.app.limits.server import FakeValkey, Server, VirtualLoop

MODEL = "gpt-6-luna"
LIMIT = 900
SECONDS = 30
REPLICAS = 3


@dataclass
class OpenAi:
    """Requests a minute as OpenAI counts them, strictly."""

    clock: Callable[[], float]
    level: float = LIMIT
    at: float = 0.0
    answered: int = 0
    refused: int = 0

    def look(self) -> float:
        now = self.clock()
        self.level = min(LIMIT, self.level + (now - self.at) * LIMIT / 60)
        self.at = now
        return self.level

    def ask(self) -> tuple[int, list[tuple[str, str]]]:
        """One request that arrives now: the status, and what the answer says about limits."""
        status = 200 if self.look() >= 1 else 429
        self.answered += status == 200
        self.refused += status == 429
        self.level -= status == 200
        told = {"limit": LIMIT, "remaining": int(self.level)}
        return status, [(f"x-ratelimit-{name}-requests", str(value)) for name, value in told.items()]


class FarValkey(FakeValkey):
    """The client of a replica that is slow to send and to read."""

    def __init__(self, server: Server, clock: Callable[[], float], delay: Callable[[], float]) -> None:
        super().__init__(server, clock)
        self.delay = delay

    async def call(self, *command: object) -> list[str]:
        await asyncio.sleep(self.delay())
        answer = await super().call(*command)
        await asyncio.sleep(self.delay())
        return answer


@dataclass
class Load:
    """Three replicas, each with callers who never stop, on a machine that stalls for up to `stall` seconds."""

    stall: float = 0.0
    elsewhere: float = 0.0
    """Requests a second of a service that is not ours."""
    chance: random.Random = field(default_factory=lambda: random.Random(3))

    def delay(self, usual: float, stall: float) -> Callable[[], float]:
        return lambda: (
            usual * self.chance.random() + (stall * self.chance.random() if self.chance.random() < 0.1 else 0)
        )

    async def keep_asking(self, limiter: Limiter) -> None:
        there, back = self.delay(0.01, self.stall), self.delay(0.1, self.stall)
        while self.openai.clock() < SECONDS:
            try:
                ticket = await limiter.enter(MODEL, 16, Caller("t", latest=limiter.clock() + 30))
            except ApiError:
                continue
            await asyncio.sleep(there())
            status, headers = self.openai.ask()
            await asyncio.sleep(back())
            limiter.saw(ticket, headers, "rate_limit_exceeded" if status == 429 else None)

    async def somebody_else(self) -> None:
        while self.elsewhere and self.openai.clock() < SECONDS:
            await asyncio.sleep(self.chance.expovariate(self.elsewhere))
            self.openai.ask()

    async def run(self) -> None:
        loop, server = asyncio.get_running_loop(), Server()
        self.openai = OpenAi(loop.time)
        far = self.delay(0.002, self.stall / 10)
        limiters = [
            Limiter(
                FarValkey(server, loop.time, far),  # type: ignore[arg-type]
                lambda: Policy(Limits()),
                max_local_keys=10,
                clock=lambda zero=3_600.0 * number: loop.time() + zero,  # type: ignore[misc]
                max_waiting=1_000,
            )
            for number in range(REPLICAS)
        ]
        tasks = [asyncio.create_task(self.keep_asking(limiter)) for limiter in limiters for _ in range(12)]
        tasks.append(asyncio.create_task(self.somebody_else()))
        await asyncio.sleep(SECONDS)
        self.left = self.openai.look() / LIMIT
        await asyncio.gather(*tasks)
        for limiter in limiters:
            await limiter.stop()


def after(load: Load) -> Load:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(load.run())
    return load


def test_a_machine_that_stalls_forfeits_none_of_openais_limit_and_is_not_refused() -> None:
    for stall in (0.0, 1.0):
        load = after(Load(stall))
        assert load.openai.refused == 0
        # Two in a hundred are never used; what is sent before the limit is known may count twice.
        assert load.left <= 0.08, stall


def test_what_another_service_takes_is_learnt_from_what_is_left() -> None:
    load = after(Load(elsewhere=5.0))  # a third of the limit
    assert load.openai.refused <= 1
    assert load.left <= 0.03
