"""When each budget is looked at again: soon where money is about to reach a line, seldom where it is far off. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

from app.budgets.ladder import Place, Standing
from app.budgets.policy import Policy, Rung
from app.budgets.scope import ORG
from app.prices import PICO_PER_USD

SOON_SECONDS, ORG_SECONDS = 3.0, 10.0
"""A budget whose spending may be about to reach a line; the organisation, at the longest."""
LIMITED_SECONDS = 30.0
"""Any other budget with a limit, at the longest, unless it is FAR."""
FAR_SECONDS = 120.0
"""A budget that neither SURGE times its own pace nor BURST brings to a line within this time."""
FREE_SECONDS = 300.0
"""A tenant without a limit, whose habit alone is watched, and any budget while nobody can spend."""
UNUSED_SECONDS = 600.0
"""A key or a model without a limit: nothing is decided by it, and its pace is there when a limit is set."""
SURGE = 10
BURST_PICO_A_SECOND = PICO_PER_USD // 60
"""A dollar a minute: what somebody may begin to spend out of nothing."""
HOUR = 3_600.0
MOST = 300
"""Budgets of one look; the others come in the next."""
Limits = tuple[int | None, int | None]
"""Of a scope's month and day, in pico-dollars."""


class Account(Protocol):
    """A scope's money in one window, as the ledger tells it, in pico-dollars."""

    @property
    def limit(self) -> int | None: ...
    @property
    def spent(self) -> int: ...
    @property
    def reserved(self) -> int: ...
    @property
    def suspense(self) -> int: ...


class Turn(NamedTuple):
    """What a look at a scope found."""

    at: float
    limits: Limits
    degraded: bool
    """Whether it is on a rung."""
    seconds: float
    """It can be left alone for so long, while somebody can spend."""


def seconds_until(policy: Policy, standing: Standing, place: Place, rate: float) -> float:
    """How long a budget can be left alone when it was just found so; `rate` is what it spent of late, a second."""
    fastest = max(float(BURST_PICO_A_SECOND), SURGE * rate)
    spent = [standing.limit * percent // 100 for percent in policy.spent_percents]
    ahead = [line - standing.counted for line in (*spent, standing.limit) if line > standing.counted]
    to_spent = min(ahead, default=0) / fastest if ahead else LIMITED_SECONDS
    if place.rung is not Rung.NORMAL:
        return max(SOON_SECONDS, min(to_spent, LIMITED_SECONDS))
    # What is spent now leads further than itself: as a pace, of which an hour is the shortest measure there is.
    share = min(policy.notify_percent, policy.aim_percent) / 100
    room = (standing.limit * share - standing.projected) / (1 + standing.window.left(standing.now) / HOUR)
    return max(SOON_SECONDS, min(to_spent, max(room / fastest, LIMITED_SECONDS), FAR_SECONDS))


def without_limit(scope: str) -> float:
    """How long a scope that nothing can degrade is left alone."""
    return FREE_SECONDS if scope.startswith("tenant:") else UNUSED_SECONDS


class Rota:
    """Whose turn it is."""

    def __init__(self) -> None:
        self.idle = False
        """Whether nobody can spend: nobody holds money of the organisation, and none of it is set aside."""
        self._turns: dict[str, Turn] = {}
        self._spent = -1

    @property
    def pause(self) -> float:
        """Until the organisation's next look."""
        turn = self._turns.get(ORG)
        return ORG_SECONDS if self.idle or turn is None else min(turn.seconds, ORG_SECONDS)

    def see(self, account: Account) -> None:
        """Note how the organisation stands."""
        counted = account.spent + account.suspense
        self.idle = account.reserved == 0 and counted == self._spent
        self._spent = counted

    def note(self, scope: str, turn: Turn) -> None:
        """A scope was looked at."""
        self._turns[scope] = turn

    def keep(self, scopes: Collection[str]) -> None:
        """Forget the others."""
        self._turns = {scope: turn for scope, turn in self._turns.items() if scope in scopes}

    def due(self, scopes: Iterable[str], limits_of: Callable[[str], Limits], now: float) -> list[str]:
        """Those but the organisation whose time has come, who waits longest first."""
        late = ((now - self._due_at(scope, limits_of(scope)), scope) for scope in scopes if scope != ORG)
        return [scope for _, scope in sorted((each for each in late if each[0] >= 0), reverse=True)[:MOST]]

    def _due_at(self, scope: str, limits: Limits) -> float:
        turn = self._turns.get(scope)
        if turn is None or turn.limits != limits:
            return float("-inf")
        return turn.at + (max(turn.seconds, FREE_SECONDS) if self.idle and not turn.degraded else turn.seconds)
