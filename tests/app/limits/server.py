"""The real Lua scripts on a clock that a test turns, without a server: every order of events can be tried."""

from __future__ import annotations

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

    def lease(self, replica: str, scope: Scope, fields: list[float]) -> str:
        """What one replica is answered for one scope."""
        arguments = [replica, str(int(LEASE_SECONDS * 1000)), str(FIELDS), *map(str, fields)]
        answers = self._lease(self._lua.table_from([scope.key]), self._lua.table_from(arguments))
        return str(answers[1])

    def level(self, key: str) -> float:
        """Requests that nobody holds."""
        return float(self.hashes[key]["requests"])

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
