"""Which rung a budget is on: decided by where its spending leads by the window's end, not only by what is gone."""

from __future__ import annotations

from dataclasses import dataclass

from app.budgets.policy import STEPS, Policy, Rung
from app.budgets.window import Window

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a budget stands at a moment. Amounts in pico-dollars."""

    limit: int
    """Of the window; 0 lets nothing through."""
    counted: int
    """Spent, reserved and in suspense: everything that may have to be paid."""
    demand: float
    """Pico-dollars a second that would be spent if nothing were degraded."""
    window: Window
    now: float

    @property
    def projected(self) -> int:
        """What the window would cost in the end if nothing were degraded from now on."""
        return self.counted + int(self.demand * self.window.left(self.now))

    @property
    def share(self) -> float:
        """Projected, of the limit; infinite for a limit of 0 that is used."""
        if self.limit > 0:
            return self.projected / self.limit
        return float("inf") if self.projected else 0.0

    def affordable(self, aim_percent: int) -> float:
        """Share of its undegraded cost that a request may cost from now on, for the window to end within the aim."""
        left = self.limit * aim_percent / 100 - self.counted
        due = self.demand * self.window.left(self.now)
        if due <= 0:
            return float("inf") if left > 0 else 0.0
        return max(0.0, left / due)


@dataclass(frozen=True, slots=True)
class Place:
    """A rung, and since when (seconds since 1970) in which window."""

    rung: Rung = Rung.NORMAL
    since: float = float("-inf")
    window: str = ""


def step(policy: Policy, standing: Standing, before: Place) -> Place:
    """The rung for now. Upwards at once; downwards only after a while and with room to spare.

    A new window begins afresh: what was spent in the last one does not count in it.
    """
    if before.window != standing.window.name:
        before = Place(Rung.NORMAL, standing.now, standing.window.name)
    wanted = _wanted(policy, standing, spare=1.0)
    if wanted >= before.rung:
        return before if wanted == before.rung else Place(wanted, standing.now, standing.window.name)
    # Money that is there again ends a refusal at once.
    if before.rung < Rung.REFUSED and standing.now - before.since < policy.dwell_minutes * MINUTE:
        return before
    careful = _wanted(policy, standing, spare=1 - policy.hysteresis_percent / 100)
    if careful >= before.rung:
        return before
    return Place(careful, standing.now, standing.window.name)


def _wanted(policy: Policy, standing: Standing, *, spare: float) -> Rung:
    """The lowest rung that does. `spare` below 1 asks it to do with less."""
    if standing.counted >= standing.limit:
        return Rung.REFUSED
    affordable = standing.affordable(policy.aim_percent) * spare
    if affordable >= 1:
        return Rung.NOTIFY if standing.share * 100 >= policy.notify_percent * spare else Rung.NORMAL
    for rung in STEPS:
        if policy.cost(rung) <= affordable:
            return rung
    return Rung.PRIORITY
