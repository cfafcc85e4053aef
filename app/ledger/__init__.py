"""The ledger: dollars are leased in blocks from DynamoDB, reserved before a call, settled after it, and never lost.

`lease`, `item`, `book` and `watch` are the protocol, without clock or network; `table` is DynamoDB, `service` the task
that keeps both together. docs/money.md says what it guarantees.
"""

from app.ledger.book import ORG, Hold, Payer, scopes_of
from app.ledger.entries import Entry, Kept, Outcome
from app.ledger.group import Place
from app.ledger.limits import DAILY, MONTHLY
from app.ledger.service import Account, Ledger
from app.ledger.table import Default

__all__ = [
    "DAILY",
    "MONTHLY",
    "ORG",
    "Account",
    "Default",
    "Entry",
    "Hold",
    "Kept",
    "Ledger",
    "Outcome",
    "Payer",
    "Place",
    "scopes_of",
]
