"""A month of requests played through the real ladder, the real plans and the real prices, hour by hour."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from app.budgets.degrade import degraded
from app.budgets.history import HOUR, History
from app.budgets.ladder import Place, Standing, step
from app.budgets.policy import Policy, Rung
from app.budgets.window import Window
from app.models import Models, Usage, default_document
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import RESPONSES

MODELS = Models(default_document())
SHARES = {"fast": 30, "balanced": 50, "best": 20}
BACKGROUND_PERCENT = 15
MEAN_OUTPUT_TOKENS = 350
STEPS_AN_HOUR = 4
# What people do over a day and a week: three times more at noon than at night, half on weekends.
DAY = [0.5, 0.45, 0.4, 0.4, 0.45, 0.5, 0.7, 0.9, 1.1, 1.3, 1.4, 1.45, 1.5, 1.5, 1.45, 1.4, 1.3, 1.2, 1.1, 1.0, 0.9]
DAY += [0.8, 0.7, 0.6]
WEEKEND = 0.5


@dataclass(frozen=True)
class Asked:
    """One request as its caller means it."""

    alias: str
    input_tokens: int
    output_tokens: int
    """What the model would say without a cap."""
    cap: int
    interactive: bool


@dataclass
class Result:
    """What a month came to."""

    asked: int = 0
    answered: int = 0
    spent: int = 0
    limit: int = 0
    rungs: Counter[Rung] = field(default_factory=Counter)
    """Requests by the rung they met."""
    shortened: int = 0
    moved: int = 0
    """Answered by a cheaper model."""
    refused: Counter[str] = field(default_factory=Counter)
    moves: int = 0
    """Changes of the rung."""

    def lines(self, title: str) -> str:
        """The month in words."""
        share = {rung.label: f"{100 * count / self.asked:.1f} %" for rung, count in sorted(self.rungs.items())}
        return "\n".join(
            [
                f"{title}: {self.asked} requests, {100 * self.answered / self.asked:.2f} % answered, "
                f"{100 * self.spent / self.limit:.1f} % of the budget spent",
                f"  requests by rung: {share}; the rung changed {self.moves} times",
                f"  degraded: {100 * self.moved / self.asked:.1f} % by a cheaper model, "
                f"{100 * self.shortened / self.asked:.1f} % cut short; refused: {dict(self.refused) or 'none'}",
            ]
        )


def requests(seed: int, mean_an_hour: float, window: Window) -> list[list[Asked]]:
    """The requests of each quarter of an hour of a window."""
    chance = random.Random(seed)
    quarters = []
    for number in range(int(window.seconds / HOUR) * STEPS_AN_HOUR):
        now = datetime.fromtimestamp(window.start + number * HOUR / STEPS_AN_HOUR, UTC)
        mean = mean_an_hour * DAY[now.hour] / STEPS_AN_HOUR * (WEEKEND if now.weekday() >= 5 else 1)
        count = sum(chance.random() < mean / 64 for _ in range(64))
        quarters.append([_request(chance) for _ in range(count)])
    return quarters


def planned_cost(quarters: list[list[Asked]]) -> int:
    """Pico-dollars of the requests when nothing is degraded."""
    return sum(_serve(asked, Policy(), Rung.NORMAL)[0] for quarter in quarters for asked in quarter)


def play(quarters: list[list[Asked]], limit: int, policy: Policy, window: Window, *, seen_hours: int = 0) -> Result:
    """Spend a month: the rung is judged each quarter of an hour, the cap for each request.

    `seen_hours` of the same demand came before it, at the pace of the month's mean.
    """
    result = Result(limit=limit)
    mean = planned_cost(quarters) / window.seconds
    history = History()
    history.add(window.start - seen_hours * HOUR, 0)
    if seen_hours:
        history.add(window.start, int(mean * seen_hours * HOUR))
    place = Place()
    seconds = HOUR / STEPS_AN_HOUR
    for number, quarter in enumerate(quarters):
        now = window.start + number * seconds
        pace = history.pace(now)
        before, place = place, step(policy, Standing(limit, result.spent, pace, window, now), place)
        result.moves += before.rung is not place.rung
        spent = _quarter(quarter, result, policy, place.rung)
        history.add(now + seconds, int(spent / policy.cost(place.rung)))
    return result


def _quarter(quarter: list[Asked], result: Result, policy: Policy, rung: Rung) -> int:
    spent = 0
    for asked in quarter:
        result.asked += 1
        result.rungs[rung] += 1
        if rung >= Rung.PRIORITY and not asked.interactive:
            result.refused["background"] += 1
            continue
        cost, moved, short = _serve(asked, policy, rung)
        if result.spent + cost > result.limit:
            result.refused["no money"] += 1
            continue
        result.answered += 1
        result.moved += moved
        result.shortened += short
        result.spent += cost
        spent += cost
    return spent


def _serve(asked: Asked, policy: Policy, rung: Rung) -> tuple[int, bool, bool]:
    """What a request costs on a rung, whether another model answered and whether its answer was cut."""
    document: dict[str, Any] = {"model": asked.alias, "input": "", "max_output_tokens": asked.cap}
    plan = make_plan(RESPONSES, degraded(RESPONSES, document, MODELS, policy, rung), MODELS)
    said = min(asked.output_tokens, plan.output_tokens)
    cost = plan.model.price.cost_pico(Usage(asked.input_tokens, 0, 0, said))
    return cost, plan.model is not MODELS.resolve(asked.alias, "text"), said < min(asked.output_tokens, asked.cap)


def _request(chance: random.Random) -> Asked:
    return Asked(
        alias=chance.choices(list(SHARES), list(SHARES.values()))[0],
        input_tokens=round(chance.lognormvariate(6.2, 0.8)),
        output_tokens=round(chance.expovariate(1 / MEAN_OUTPUT_TOKENS)) + 1,
        cap=chance.choice([512, 1024, 2048]),
        interactive=chance.random() * 100 >= BACKGROUND_PERCENT,
    )
