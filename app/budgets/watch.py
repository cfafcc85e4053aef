"""The watcher of a process: its limits by default, and what it reports, out of a task's settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from app.aws import Aws
from app.budgets.scope import ORG
from app.budgets.watcher import Seen, Watcher
from app.observability.metrics import (
    BUDGET_HEADROOM_USD,
    BUDGET_RESERVED_USD,
    BUDGET_RUNG,
    BUDGET_SPENT_USD,
    BUDGET_SUSPENSE_USD,
    BUDGET_WATCH,
    write_once,
)
from app.prices import PICO_PER_USD

if TYPE_CHECKING:
    from app.ledger import Ledger
    from app.models import Models
    from app.settings import Settings

WATCHING = "web"  # there is always one; a stack may have no worker


def default_limits(settings: Settings) -> Callable[[str, str], int | None]:
    """The limit in pico-dollars that a scope and kind of window (`M`, `D`) has where nobody set one."""
    month = settings.token_budget_usd * PICO_PER_USD
    return lambda scope, kind: month if (scope, kind) == (ORG, "M") else None


def watcher(settings: Settings, aws: Aws, ledger: Ledger, models: Callable[[], Models]) -> Watcher | None:
    """The watcher of a process; None in one whose service does not watch."""
    if settings.service != WATCHING:
        return None
    return Watcher(
        aws,
        settings.state_table,
        ledger,
        partial(ledger.table.scopes, exactly=False),
        models,
        lambda seen: report(settings, seen),
        topic_arn=settings.alert_topic_arn,
        stack=settings.stack,
        zone=settings.budget_zone,
    )


def report(settings: Settings, seen: Seen) -> None:
    """Write what a round saw as metrics: the organisation's month, and no tenant."""
    values = {
        BUDGET_SPENT_USD: seen.spent / PICO_PER_USD,
        BUDGET_RESERVED_USD: seen.reserved / PICO_PER_USD,
        BUDGET_SUSPENSE_USD: seen.suspense / PICO_PER_USD,
        BUDGET_RUNG: int(seen.rung),
        BUDGET_WATCH: 1,
    }
    if seen.limit is not None:
        values[BUDGET_HEADROOM_USD] = (seen.limit - seen.spent - seen.reserved - seen.suspense) / PICO_PER_USD
    write_once(settings.stack, settings.service, values)
