"""The degradation ladder as the models document prices it: section `budget`, optional, with defaults that act late."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

RUNG_HEADER = "x-prodkit-budget-rung"


class Rung(IntEnum):
    """How far a budget has been degraded; each rung does what those below it do as well."""

    NORMAL = 0
    NOTIFY = 1
    SHORTER = 2
    CHEAPER = 3
    CACHED = 4
    DEFERRED = 5
    PRIORITY = 6
    REFUSED = 7

    @property
    def label(self) -> str:
        """As headers, alerts and the document name it."""
        return _LABELS[self]


_LABELS = tuple(rung.name.lower() for rung in Rung)  # an enum's name is looked up slowly, and each answer says one

STEPS = (Rung.SHORTER, Rung.CHEAPER, Rung.CACHED, Rung.DEFERRED, Rung.PRIORITY)
"""The rungs that save money, in their order."""

MEANING: Mapping[Rung, str] = {
    Rung.NORMAL: "nothing is degraded",
    Rung.NOTIFY: "nothing is degraded yet; spending is on its way past the budget",
    Rung.SHORTER: "answers are capped shorter",
    Rung.CHEAPER: "cheaper models answer",
    Rung.CACHED: "answers that were kept come first, also old ones; cheaper models answer the rest",
    Rung.DEFERRED: "background requests are put off by the hour",
    Rung.PRIORITY: "background requests are refused, interactive ones are answered",
    Rung.REFUSED: "every request that costs money is refused",
}

# What the issue of a rung costs, in percent of an undegraded request, where the document does not say. Guesses on the
# safe side: the ladder corrects itself by what is really spent, and a rung that saves less is left upwards sooner.
_COST = {Rung.SHORTER: 75, Rung.CHEAPER: 35, Rung.CACHED: 28, Rung.DEFERRED: 22, Rung.PRIORITY: 12}


@dataclass(frozen=True, slots=True)
class Policy:
    """What each rung does and what a request then costs."""

    aim_percent: int = 98
    """Of the limit: what the ladder steers to. The rest is for what no forecast sees."""
    notify_percent: int = 95
    """Projected spend, of the limit, from which people are told."""
    spent_percents: tuple[int, ...] = (50, 80, 95)
    """Shares of the limit at which people are told that they are spent."""
    hysteresis_percent: int = 10
    """A rung is left downwards only when the lower one would do with this much to spare."""
    dwell_minutes: int = 30
    """A rung is left downwards only after this time."""
    output_percent: int = 50
    """From SHORTER on: of the output cap that a request would have."""
    least_output_tokens: int = 128
    """No cap is made shorter than this."""
    cheaper: Mapping[str, str] = field(default_factory=dict)
    """From CHEAPER on: model that answers for a model. A model that is not named keeps its own."""
    stale_seconds: int = 86_400
    """From CACHED on: how old a kept answer may be. Answers are kept for so long from NOTIFY on."""
    cost_percent: Mapping[Rung, int] = field(default_factory=lambda: dict(_COST))
    """What a request costs on a rung, in percent of one that is not degraded."""
    hold_runaways: bool = False
    """Whether a tenant whose spending runs away is held until somebody releases it."""

    def cost(self, rung: Rung) -> float:
        """What a request costs on a rung, as a share of one that is not degraded; 1 below SHORTER."""
        return self.cost_percent.get(min(rung, Rung.PRIORITY), 100) / 100


def read_policy(section: Mapping[str, Any] | None) -> Policy:
    """The policy of a checked document's `budget` section; the defaults where it says nothing."""
    if not section:
        return Policy()
    known = dict(section)
    costs = known.pop("cost_percent", {})
    if "spent_percents" in known:
        known["spent_percents"] = tuple(known["spent_percents"])
    return Policy(**known, cost_percent={rung: costs.get(rung.label, _COST[rung]) for rung in STEPS})


def descending(costs: Mapping[str, int]) -> bool:
    """Whether a document's prices fall from rung to rung, with the defaults where it names none."""
    prices = [costs.get(rung.label, _COST[rung]) for rung in STEPS]
    return all(lower >= higher for lower, higher in itertools.pairwise(prices))
