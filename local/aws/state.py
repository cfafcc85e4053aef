"""What the emulated AWS remembers besides moto, and its clock."""

import datetime
from collections import defaultdict
from typing import Any

_tables: defaultdict[tuple[str, str, str, str], dict[Any, Any]] = defaultdict(dict)
_ahead = datetime.timedelta()


def table(account: str, region: str, service: str, name: str) -> dict[Any, Any]:
    """One service's table; empty when it is first asked for."""
    return _tables[account, region, service, name]


def now() -> datetime.datetime:
    """UTC in whole seconds, plus what the clock was advanced by."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + _ahead


def advance(seconds: float) -> datetime.datetime:
    """Move the clock forward; the new time. moto's own clock stays."""
    global _ahead
    _ahead += datetime.timedelta(seconds=seconds)
    return now()


def reset() -> None:
    """Forget everything and set the clock right."""
    global _ahead
    _ahead = datetime.timedelta()
    _tables.clear()
