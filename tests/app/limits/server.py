"""The real Lua scripts on a clock that a test turns, without a server: every order of events can be tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from lupa.lua51 import LuaRuntime

from app.limits.scope import LEASE_SECONDS, Scope
from app.limits.scripts import FIELDS, LEASE


class Server:
    """What Valkey does for the scripts: hashes, and the time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.hashes: dict[str, dict[str, str]] = {}
        self._lua = LuaRuntime(unpack_returned_tuples=True, encoding="utf-8")
        globals_ = self._lua.globals()
        globals_.redis = self._lua.table(call=self._call)
        self._lease = self._lua.eval(f"function(KEYS, ARGV) {LEASE.source} end")

    def run(self, keys: list[str], arguments: list[object]) -> list[str]:
        """What LEASE answers."""
        answers = self._lease(self._lua.table_from(keys), self._lua.table_from([str(part) for part in arguments]))
        return [str(answers[index + 1]) for index in range(len(keys))]

    def lease(self, replica: str, scope: Scope, fields: list[float]) -> str:
        """What one replica is answered for one scope."""
        return self.run([scope.key], [replica, int(LEASE_SECONDS * 1000), FIELDS, *fields])[0]

    def _call(self, command: str, *arguments: Any) -> Any:
        key = arguments[0] if arguments else ""
        if command == "TIME":
            seconds, rest = divmod(round(self.now * 1_000_000), 1_000_000)
            return self._lua.table(str(seconds), str(rest))
        if command == "TYPE":
            return self._lua.table(ok="hash" if key in self.hashes else "none")
        found = self.hashes.setdefault(key, {})
        if command == "HGETALL":
            return self._lua.table_from([part for pair in found.items() for part in pair])
        if command == "HSET":
            found |= dict(zip(arguments[1::2], map(str, arguments[2::2]), strict=True))
        elif command == "HDEL":
            found.pop(arguments[1], None)
        else:
            raise AssertionError(command)
        return None


class FakeValkey:
    """The client of a replica on that server: it answers at once."""

    reachable = True

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self.server = server
        self.clock = clock

    async def call(self, *command: Any) -> list[str]:
        """EVALSHA of LEASE."""
        self.server.now = 1_000_000 + self.clock()
        count = int(command[2])
        return self.server.run(list(command[3 : 3 + count]), list(command[3 + count :]))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time: when nothing can run, it is the time of what runs next."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]
