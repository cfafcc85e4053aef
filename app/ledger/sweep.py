"""The leases of processes that fell silent: into suspense, by whoever notices first."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable

from app.budgets.window import Span, window_at
from app.ledger.item import Reclaim
from app.ledger.table import LedgerTable
from app.ledger.watch import Watch, boot_of

log = logging.getLogger(__name__)


class Sweep:
    """Looks through every item of the windows that run, for one process."""

    def __init__(
        self,
        boot: str,
        zone: datetime.tzinfo,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`boot` is the process's own name, `clock` monotonic and `wall_clock` Unix time, both in seconds."""
        self._boot = boot
        self._zone = zone
        self._clock = clock
        self._wall_clock = wall_clock
        self._watch = Watch()

    async def run(self, table: LedgerTable) -> None:
        """Suspend what the silent hold; raises whatever the table raises."""
        now = self._wall_clock()
        months = dict.fromkeys(window_at(Span.MONTH, at, self._zone).name for at in (now, now - 32 * 86_400))
        # As it was a moment ago: what is done about it looks at it again.
        item = (await table.read_many([("org", month := next(iter(months)))])).get(("org", month))
        boots = {boot_of(handle) for handle in item.slots} - {self._boot} if item else set()
        beats = await table.beats(boots) if boots else {}
        silent = {boot for boot in boots if self._watch.silent(boot, beats.get(boot, -1), self._clock())}
        self._watch.keep(boots)
        if silent:
            days = [window_at(Span.DAY, at, self._zone).name for at in (now, now - 86_400)]
            for name in (*months, *days):
                await self.suspend(table, name, silent)

    async def suspend(self, table: LedgerTable, name: str, boots: set[str]) -> None:
        """Put what these processes hold in the window of a name into suspense."""
        # The organisation last: its slot is how others find the dead, should this process die on the way.
        for scope in sorted(await table.scopes(name), key=lambda scope: scope == "org"):
            item = await table.read(scope, name)
            for handle, slot in item.slots.items() if item else ():
                if boot_of(handle) in boots:
                    await table.step(scope, name, Reclaim(handle, slot))
                    fields = {"scope": scope, "window": name, "lease": handle, "pico": str(slot.amt - slot.set)}
                    log.warning("a replica fell silent; its lease is in suspense", extra={"fields": fields})
