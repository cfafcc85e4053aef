"""Stand-ins by which a test sees how often AWS is asked, and when."""

from __future__ import annotations

from typing import Any

from app.aws import Aws


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class CountingAws(Aws):
    """The app's own clients, and how often they were called."""

    calls = 0

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        self.calls += 1
        return await super().call(service, operation, **parameters)
