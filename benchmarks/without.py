"""`python -m benchmarks.without`: the gateway with switches on its policies, to measure what each of them costs.

The app itself cannot run without a policy, so this process takes one out and puts it back while it runs, told by a
signal: the same process with the same memory then answers with it and without it, and nothing else differs. Switch
when no request is under way.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from app.__main__ import web
from app.ledger import Ledger
from app.limits import Grant, Limiter
from app.limits.leases import Leases
from app.pipeline.pay import NOTHING, Payment
from app.pipeline.pay import unknown_usage as unknown

Methods = Mapping[tuple[type, str], object]
"""What stands in for methods and properties, by class and name."""


def no_ledger() -> Methods:
    """Nothing is priced, reserved, booked or written; what was used is still noted, as the limits need it."""

    def settle(self: Payment, usage: Any, outcome: object, *, output_bytes: int = 0, **_: object) -> Any:
        record, plan = self._record, self.plan
        record.usage_estimated = usage is None
        record.usage = usage or (unknown(plan, output_bytes) if plan is not None else NOTHING)
        return record.usage

    def reserve_at_once(self: Payment, plan: Any) -> bool:
        self.plan = plan
        return True

    async def tick(self: Ledger) -> None:
        pass  # what waits for a page is of the time with a ledger, and is written in it

    return {
        (Payment, "ready"): lambda self, plan: self.plan is plan,
        (Payment, "reserve_at_once"): reserve_at_once,
        (Payment, "settle"): settle,
        **{(Payment, name): _nothing for name in ("release", "take_back", "failed", "given_up", "cached")},
        (Ledger, "count"): _nothing,
        (Ledger, "tick"): tick,
    }


def no_limits() -> Methods:
    """Nobody's requests and tokens are counted, by estimate or by usage, and OpenAI's headers are not read."""
    grant = Grant((), 0, 0, 0.0)
    return {
        (Limiter, "take"): lambda *_, **__: grant,
        (Limiter, "enter_at_once"): lambda *_: grant,
        (Limiter, "saw"): _nothing,
        (Limiter, "settle"): _nothing,
        (Leases, "ask"): _nothing,  # leases outlive a turn, and are renewed in the next one
    }


def no_difference() -> Methods:
    """All that the others replace, replaced by itself: what the measure makes of nothing."""
    return {place: _found(*place) for place in (*no_ledger(), *no_limits())}


PARTS = {"ledger": no_ledger, "limits": no_limits, "nothing": no_difference}
"""What can be taken out, by name."""


class Switches:
    """Takes parts out and puts them back, one at a time."""

    def __init__(self) -> None:
        self._parts = {name: part() for name, part in PARTS.items()}
        self._own = {place: _found(*place) for part in self._parts.values() for place in part}

    def take_out(self, part: str | None) -> None:
        """Go on without this part, with all others; None = with all."""
        for (where, name), method in (self._own | dict(self._parts.get(part or "", {}))).items():
            setattr(where, name, method)

    def listen(self) -> None:
        """Do so on the signal of each part from now on."""
        for part in (None, *PARTS):
            signal.signal(_signal(part), lambda *_, part=part: self.take_out(part))


def tell(pid: int, part: str | None) -> None:
    """Tell such a process which part to take out, None = none: in force for every request that is sent after this."""
    os.kill(pid, _signal(part))


def _signal(part: str | None) -> int:
    return signal.SIGRTMIN + (None, *PARTS).index(part)


def _found(where: type, name: str) -> object:
    """A method or property as it is there; raises AttributeError for one that is not."""
    found: object = inspect.getattr_static(where, name)
    return found


def _nothing(*_: object, **__: object) -> None:
    pass


def main() -> int:
    """Serve until SIGTERM."""
    Switches().listen()
    return web()


if __name__ == "__main__":
    sys.exit(main())
