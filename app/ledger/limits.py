"""What scopes may spend, as one process knows it: what somebody set, else what the newest settings say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from app.ledger.book import ORG
from app.ledger.item import UNBOUNDED_PICO
from app.ledger.table import Standing

if TYPE_CHECKING:
    from app.ledger.table import LedgerTable

MONTHLY, DAILY = "M", "D"
_SETTING = ORG, MONTHLY
"""The one budget that settings have a limit for."""


class Limits:
    """The limits in force."""

    def __init__(self, defaults: Callable[[str, str], int | None], began: float) -> None:
        """`defaults` is what this process's settings say, None where they say nothing; `began` its own begin."""
        self._standing = Standing(-1, {})
        self._defaults = defaults
        self._began = began

    @property
    def known(self) -> bool:
        """Whether the table was asked at all."""
        return self._standing.version >= 0

    def of(self, scope: str, kind: str) -> int | None:
        """The limit in pico-dollars; None = no budget."""
        if (scope, kind) in self._standing.limits:
            return self._standing.limits[scope, kind]
        if (scope, kind) in self._standing.defaults:
            return self._standing.defaults[scope, kind][0]
        return self._defaults(scope, kind)

    def wanted(self, scope: str, kind: str) -> int:
        """The same as items have it."""
        limit = self.of(scope, kind)
        return UNBOUNDED_PICO if limit is None else limit

    async def learn(self, table: LedgerTable) -> bool:
        """Ask the table; whether anything may have changed."""
        if self.known and await table.limits_version() == self._standing.version:
            return False
        self._standing = await table.standing()
        if await self._newer(table):
            self._standing = await table.standing()
        return True

    async def _newer(self, table: LedgerTable) -> bool:
        """Whether this process's settings say what nobody knew yet: of two in a deploy the one that began later holds.

        The other goes by what that one says, or both would set the limit in turns until the deploy is over.
        """
        own = self._defaults(*_SETTING)
        if own is None:
            return False
        said, since = self._standing.defaults.get(_SETTING, (None, -1.0))
        return said != own and since < self._began and await table.offer_default(*_SETTING, own, self._began)
