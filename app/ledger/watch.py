"""Who fell silent, seen with nothing but a monotonic clock of one's own."""

from __future__ import annotations

HEARTBEAT_SECONDS, QUIET_HEARTBEAT_SECONDS = 20.0, 40.0
"""Between two heartbeats of a process that holds money; the longer while it has little to do, when they are most of
what it writes. One that holds none has nothing to lose, and its heart need not beat until it leases again."""
SILENCE_SECONDS = 30.0
"""D of the lease protocol."""
DEAD_SECONDS = 2 * SILENCE_SECONDS
"""A heartbeat that did not move for so long, as the watcher's own clock counts, is a silent holder."""
EMERGENCY_SECONDS = 3_600.0
"""Without a heartbeat of its own for so long, a process spends nothing more, lease or not. Evidence of others about its
lease is taken only much later (a day that is final is over for 24 h), so it cannot meet money that was given back."""
BACK_SECONDS = 5.0
"""While the emergency part is open the next heartbeat is so soon: a good one closes it."""
AWAY_SECONDS = 0.8 * SILENCE_SECONDS
"""Without a good heartbeat for so long the ledger counts as away: the emergency part of the leases is opened."""


class Watch:
    """Heartbeats of other processes as this one has seen them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def silent(self, boot: str, beat: int, now: float) -> bool:
        """Note a heartbeat (-1: there is none) at a time of the own monotonic clock; whether its holder fell silent."""
        known = self._seen.get(boot)
        if known is None or known[0] != beat:
            self._seen[boot] = (beat, now)
            return False
        return now - known[1] >= DEAD_SECONDS

    def keep(self, boots: set[str]) -> None:
        """Forget those who hold nothing any more."""
        self._seen = {boot: seen for boot, seen in self._seen.items() if boot in boots}


def boot_of(handle: str) -> str:
    """The process that holds a lease."""
    return handle.rpartition(".")[0]
