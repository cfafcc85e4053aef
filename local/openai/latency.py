"""How long a model takes: reading the prompt, thinking, and writing token by token, with jitter from a seed."""

import asyncio
import random
from dataclasses import dataclass

from local.openai.clock import Clock
from local.openai.models import Model
from local.openai.options import Options
from local.openai.prompt_cache import Cached

_READ_TOKENS_PER_SECOND = 50_000
_JITTER = 0.2
_SHORTEST_SLEEP_SECONDS = 0.002


@dataclass(slots=True)
class Pace:
    """The times of one answer: seconds before its first token, and for each token."""

    clock: Clock
    first_seconds: float
    token_seconds: float
    _due: float | None = None

    async def wait(self, tokens: int) -> None:
        """Wait until the next `tokens` would be written; the first call with tokens also waits for the first token."""
        if tokens:
            start = self.clock.now() + self.first_seconds if self._due is None else self._due
            self._due = start + tokens * self.token_seconds
            ahead = self._due - self.clock.now()
            if ahead > _SHORTEST_SLEEP_SECONDS:
                await self.clock.sleep(ahead)
                return
        await asyncio.sleep(0)  # a stream without waits must still notice that its reader left


def pace(model: Model, cached: Cached, reasoning_tokens: int, options: Options, prompt: str) -> Pace:
    """The pace of `model` for one prompt; the same seed and prompt have the same jitter."""
    chance = random.Random(f"{options.seed}:{prompt}")
    speed = options.speed
    token = 1 / model.tokens_per_second
    reading = (cached.input_tokens - cached.read_tokens) / _READ_TOKENS_PER_SECOND
    first = model.first_token_seconds + reading + reasoning_tokens * token
    first *= chance.lognormvariate(0, _JITTER)
    return Pace(options.clock, first * speed, token * chance.lognormvariate(0, _JITTER) * speed)
