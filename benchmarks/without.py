"""`python -m benchmarks.without ledger`: the gateway with one policy taken out, to measure what that policy costs.

The app itself cannot run without a policy, so this process takes it out before the service starts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.__main__ import web


def no_ledger() -> None:
    """Nothing is priced, reserved, booked or written; what was used is still noted, as the limits need it."""
    from app.ledger import Ledger
    from app.pipeline.pay import NOTHING, Payment
    from app.pipeline.pay import unknown_usage as unknown

    def settle(self: Payment, usage: Any, outcome: object, *, output_bytes: int = 0, **_: object) -> Any:
        record, plan = self._record, self.plan
        record.usage_estimated = usage is None
        record.usage = usage or (unknown(plan, output_bytes) if plan is not None else NOTHING)
        return record.usage

    def reserve_at_once(self: Payment, plan: Any) -> bool:
        self.plan = plan
        return True

    replace(Payment, ready=lambda self, plan: self.plan is plan, reserve_at_once=reserve_at_once, settle=settle)
    replace(Payment, **dict.fromkeys(("release", "take_back", "failed", "given_up", "cached"), _nothing))
    replace(Ledger, start=_nothing, count=_nothing)


def no_limits() -> None:
    """Nobody's requests and tokens are counted, by estimate or by usage, and OpenAI's headers are not read."""
    from app.limits import Grant, Limiter

    grant = Grant((), 0, 0, 0.0)
    replace(Grant, headers={})
    replace(Limiter, take=lambda *_, **__: grant, enter_at_once=lambda *_: grant, saw=_nothing, settle=_nothing)


PARTS: Mapping[str, Callable[[], None]] = {"ledger": no_ledger, "limits": no_limits}
"""What can be taken out, by name."""
NOTHING = "nothing"
"""Is taken out of what the others are compared with."""


def replace(where: type, **methods: object) -> None:
    """Put others in place of methods or properties that are there; raises AttributeError for one that is not."""
    for name, method in methods.items():
        getattr(where, name)
        setattr(where, name, method)


def _nothing(*_: object, **__: object) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.without", description=__doc__)
    parser.add_argument("part", choices=[NOTHING, *sorted(PARTS)], help="the policy to take out")
    part = parser.parse_args(arguments).part
    if part != NOTHING:
        PARTS[part]()
    return web()


if __name__ == "__main__":
    sys.exit(main())
