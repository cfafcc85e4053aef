"""Limits as people write them, and every budget that there is: for the command line and for the API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.budgets.holds import Audit, moment
from app.budgets.window import names_anywhere
from app.ledger import DAILY, MONTHLY, keeper
from app.ledger.item import UNBOUNDED_PICO
from app.prices import PICO_PER_USD, usd

if TYPE_CHECKING:
    from app.ledger.item import Item
    from app.ledger.table import LedgerTable

SPANS: Mapping[str, str] = {"month": MONTHLY, "day": DAILY}
"""What people call a kind of window, and what the ledger does."""
USD_PATTERN = "[0-9]{1,11}([.][0-9]{1,12})?"
NO_LIMIT = "none"
DEFAULT = "default"
"""As the log says it: the limit that the stack has where nobody set one."""
MOST_SHOWN = 200
SUSPENSE = "SUSPENSE was leased by replicas that died, and comes back by evidence: see python -m app.ledger verify"
_USD = re.compile(USD_PATTERN)


def pico_of(text: str) -> int:
    """The whole pico-dollars that a text in dollars means; raises ValueError that shows how one looks."""
    if _USD.fullmatch(text) is None:
        raise ValueError(
            f"limit={text[:40]!r} is no amount; write dollars with at most 11 digits and 12 decimals such as 50 or 0.25"
        )
    whole, _, part = text.partition(".")
    return int(whole) * PICO_PER_USD + int(part.ljust(12, "0") or 0)


async def shown(table: LedgerTable, now: float) -> list[str]:
    """Every budget of the windows that run somewhere on earth, as lines of a table: the most spent first."""
    names = [name for kind in SPANS.values() for name in names_anywhere(keeper.SPANS[kind], now)]
    found = [(scope, name, await table.read(scope, name)) for name in names for scope in await table.scopes(name)]
    there = [(scope, name, item) for scope, name, item in found if item is not None]
    there.sort(key=lambda row: (-row[2].used, row[0], row[1]))
    lines = [_row("BUDGET", "WINDOW", "LIMIT", "SPENT", "LEASED", "SUSPENSE", "LEFT")]
    lines += [_shown(*row) for row in there[:MOST_SHOWN]]
    if len(there) > MOST_SHOWN:
        lines.append(f"and {len(there) - MOST_SHOWN} more that spent less")
    if any(item.suspense for _, _, item in there):
        lines.append(
            "SUSPENSE was leased by replicas that died, and comes back by evidence: python -m app.ledger verify"
        )
    return lines


async def changes(table: LedgerTable) -> list[Audit]:
    """Who set which limit and why."""
    return [_audit(scope, change) for scope in await table.ever_limited() for change in await table.changes(scope)]


def _audit(scope: str, change: Mapping[str, str]) -> Audit:
    kind = change["sk"].partition("#")[0]
    span = next(name for name, other in SPANS.items() if other == kind)
    limit = usd(int(change["limit"])) if "limit" in change else DEFAULT if "default" in change else NO_LIMIT
    return Audit(moment(float(change["at"])), "set", scope, change["by"], change["why"], {span: limit})


def _shown(scope: str, name: str, item: Item) -> str:
    limit = NO_LIMIT if item.limit >= UNBOUNDED_PICO else usd(item.limit)
    left = "" if limit == NO_LIMIT else usd(item.avail)
    return _row(scope, name, limit, usd(item.used), usd(item.leased), usd(item.suspense), left)


def _row(scope: str, *cells: str) -> str:
    return f"{scope:<40} " + " ".join(f"{cell:<12}" for cell in cells).rstrip()
