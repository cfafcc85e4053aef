"""How many web tasks the OpenAI quota can feed: more of them would only wait for each other's rate limit.

OpenAI counts requests and tokens a minute for a project and model, and whichever runs out first is the limit
(https://platform.openai.com/docs/guides/rate-limits). What a task asks for follows from Little's law: requests in
flight are requests a minute times how long one takes.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class Bottleneck(StrEnum):
    """What limits the requests a minute."""

    REQUESTS = "request quota"
    """OpenAI's limit of requests a minute."""
    TOKENS = "token quota"
    """OpenAI's limit of tokens a minute."""
    TASKS = "web tasks"
    """The most tasks that autoscaling may start."""


@dataclass(frozen=True)
class Load:
    """A quota, and what one task makes of it by assumption. Every number is 1 or more."""

    requests_per_minute: int
    """Quota."""
    tokens_per_minute: int
    """Quota."""
    in_flight_per_task: int
    """Requests that autoscaling aims at in each task."""
    request_seconds: int
    """Mean time of a request."""
    tokens_per_request: int
    """Mean tokens that OpenAI counts for one: the larger of the output cap and its estimate of the whole."""

    @property
    def task_requests(self) -> Fraction:
        """Requests a minute of one task that is as busy as it should be."""
        return Fraction(60 * self.in_flight_per_task, self.request_seconds)

    @property
    def task_tokens(self) -> Fraction:
        """Tokens a minute of one such task."""
        return self.task_requests * self.tokens_per_request

    @property
    def fed_by_tokens(self) -> Fraction:
        """Requests a minute that the token quota allows."""
        return Fraction(self.tokens_per_minute, self.tokens_per_request)

    @property
    def useful_tasks(self) -> int:
        """Fewest tasks that can use the whole quota, which is the most that are of any use."""
        return math.ceil(min(Fraction(self.requests_per_minute), self.fed_by_tokens) / self.task_requests)


def requests_by(load: Load, tasks: int) -> dict[Bottleneck, Fraction]:
    """Requests a minute that each of the three allows."""
    return {
        Bottleneck.REQUESTS: Fraction(load.requests_per_minute),
        Bottleneck.TOKENS: load.fed_by_tokens,
        Bottleneck.TASKS: load.task_requests * tasks,
    }


def bottleneck(load: Load, tasks: int) -> Bottleneck:
    """Which of the three is reached first by `tasks` tasks; a quota goes before tasks that could use just as much."""
    allowed = requests_by(load, tasks)
    return min(allowed, key=lambda one: allowed[one])


def quota_for(load: Load, tasks: int) -> tuple[int, int]:
    """The smallest quotas, requests and tokens a minute, that leave a use for `tasks` (1 or more) tasks."""
    others = tasks - 1
    return math.floor(load.task_requests * others) + 1, math.floor(load.task_tokens * others) + 1
