"""AWS's list prices out of `prices.toml`, which says where each comes from and when it was read."""

import tomllib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True)
class Price:
    """One list price."""

    usd: Decimal
    unit: str
    """What one is: `GB`, `gateway-hour`."""
    source: str


def _load() -> dict[str, Any]:
    with FILE.open("rb") as file:
        return tomllib.load(file, parse_float=Decimal)


_DOCUMENT = _load()

CHECKED: date = _DOCUMENT["checked"]
"""When the prices were last read."""
REGION: str = _DOCUMENT["region"]
HOURS_A_MONTH: int = _DOCUMENT["hours_a_month"]
PRICES = {name: Price(**row) for name, row in _DOCUMENT.items() if isinstance(row, dict)}


def usd(name: str) -> Decimal:
    """What one unit costs, in US dollars. Raises KeyError: a price that is not known is never nothing."""
    return PRICES[name].usd
