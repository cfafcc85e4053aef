"""A budget as JSON, for whoever asks by HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.budgets import limits
from app.prices import usd

if TYPE_CHECKING:
    from app.ledger import Account

_SPANS = {kind: span for span, kind in limits.SPANS.items()}


def budget(account: Account, kind: str) -> dict[str, Any]:
    """One account as JSON. Pico-dollars are texts: 2^53 of them are $9,007, and a reader's numbers end there."""
    amounts = {
        "limit": account.limit,
        "spent": account.spent,
        "reserved": account.reserved,
        "suspense": account.suspense,
        "left": account.left,
    }
    return {
        "object": "budget",
        "scope": account.scope,
        "span": _SPANS[kind],
        "window": account.window,
        "resets_at": account.resets,
        **{f"{name}_pico": None if pico is None else str(pico) for name, pico in amounts.items()},
        **{name: None if pico is None else usd(pico) for name, pico in amounts.items()},
    }
