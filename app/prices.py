"""What a token costs: dated rows of `prices.yaml`, exact to the pico-dollar. What has no row is refused, never free."""

from __future__ import annotations

import datetime
import functools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.errors import ApiError

PRICES = Path(__file__).with_name("prices.yaml")
PICO_PER_USD = 1_000_000_000_000
PICO_PER_TOKEN = 1_000_000  # of a price of one USD per million tokens
DEFAULT, BATCH = "default", "batch"
TIERS = (DEFAULT, BATCH, "priority", "flex")
BANDS = ("short", "long")
CLASSES = ("input", "cached_input", "cache_write", "output")
DAY_SECONDS = 86_400
_REGIONAL_HOST = re.compile(r"[a-z]{2}[.]api[.]openai[.]com")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_USD = re.compile(r"[0-9]{1,6}([.][0-9]{1,6})?")
_FIELDS = ("version", "valid_until", "long_context_above_input_tokens", "regional", "sources", "rows")
_ROW_FIELDS = ("model", "tier", "band", "from", *CLASSES, "source")


class PriceFileError(ValueError):
    """The price file cannot be used; the message names every fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The price file cannot be used:\n" + "\n".join(f"  {line}" for line in problems))
        self.problems = tuple(problems)


@dataclass(slots=True)
class Usage:
    """Tokens of one call. `input_tokens` includes the cached and the cache-writing ones, as OpenAI counts.

    Never changed, and not frozen, which would triple what making one costs.
    """

    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    """Of the output."""

    @property
    def sane(self) -> bool:
        """Whether these can be counts: none below zero, and no part more than the whole."""
        return (
            self.output_tokens >= 0
            and self.cached_tokens >= 0
            and self.cache_write_tokens >= 0
            and self.cached_tokens + self.cache_write_tokens <= self.input_tokens
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-dollars (10^-12 USD) per token of one context band: whole numbers, so that sums are exact."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    dearest_input: int = field(init=False)
    """Of the three rates of input: each request is reserved at it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dearest_input", max(self.input, self.cached_input, self.cache_write))


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs in one tier at one time. The four rates are those of the short context band."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    long: Rates | None = None
    """Rates of a whole request whose input is longer than `above`; None = the short ones hold."""
    above: int = 0
    percent: int = 100
    """Of these rates: more than 100 for a regional host."""
    version: str = ""
    """Of the price file."""
    dearest_input: int = field(init=False)
    """Of the three rates of input: each request is reserved at it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dearest_input", max(self.input, self.cached_input, self.cache_write))

    def rates(self, input_tokens: int) -> Price | Rates:
        """The rates of a request with so much input: more than the line reprices all of it."""
        return self if self.long is None or input_tokens <= self.above else self.long

    def cost_pico(self, usage: Usage) -> int:
        """What the usage costs, in pico-dollars, rounded up; never negative, whatever the usage claims."""
        total, cached, written = usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens
        output = usage.output_tokens
        if output < 0 or cached < 0 or written < 0 or cached + written > total:
            total, output = max(0, total), max(0, output)
            cached = min(max(0, cached), total)
            written = min(max(0, written), total - cached)
        rates = self if self.long is None else self.rates(total)
        cost = (total - cached - written) * rates.input + output * rates.output
        if cached or written:
            cost += cached * rates.cached_input + written * rates.cache_write
        return cost if self.percent == 100 else -(-cost * self.percent // 100)

    def worst_pico(self, input_tokens: int, output_tokens: int) -> int:
        """The most that a call of at most so many tokens costs, however its input is cached."""
        cost = input_tokens * self.dearest_input + output_tokens * self.output
        if self.long is not None and input_tokens > self.above:
            cost = max(cost, input_tokens * self.long.dearest_input + output_tokens * self.long.output)
        return cost if self.percent == 100 else -(-cost * self.percent // 100)


class Tariff:
    """Every price of one model, by tier and by the day from which it holds."""

    def __init__(
        self,
        model: str,
        prices: Mapping[str, tuple[tuple[float, Price], ...]],
        until: float,
        clock: Callable[[], float],
    ) -> None:
        """`prices` are oldest first, each with its first second; none holds from `until` on; `clock` is Unix time."""
        self.model = model
        self._prices = prices
        self._until = until
        self._clock = clock
        self._known: dict[str, tuple[float, float, Price]] = {}

    def price(self, tier: str = DEFAULT, at: float | None = None) -> Price:
        """The price in a tier at a Unix time (now); raises ApiError 503 `price_missing` when there is none."""
        now = self._clock() if at is None else at
        known = self._known.get(tier)
        if known is not None and known[0] <= now < known[1]:
            return known[2]
        begin, end, price = self._find(tier, now)
        if at is None:
            self._known[tier] = (begin, end, price)
        return price

    def dearest(self, at: float | None = None) -> Price:
        """For a tier that has no price: of each rate the highest of all tiers, so that nothing looks cheaper than it
        was. A fact is never refused, so this works after the price file has ended, too."""
        now = self._clock() if at is None else at
        found = [price for rows in self._prices.values() for first, price in rows if first <= now] or [
            rows[0][1] for rows in self._prices.values()
        ]
        plain = {name: max(getattr(price, name) for price in found) for name in CLASSES}
        long = [price.long or price for price in found]
        most = {name: max(plain[name], *(getattr(each, name) for each in long)) for name in CLASSES}
        rates = Rates(**most) if any(price.long for price in found) else None
        return replace(found[0], **plain, long=rates)

    def served(self, tier: str, input_tokens: int, at: float | None = None) -> tuple[Price, bool]:
        """The price of a call as it was served, and whether it has one; the dearest known when it has none."""
        try:
            price = self.price(tier, at)
        except ApiError:
            return self.dearest(at), False
        if price.long is None and input_tokens > price.above and self.dearest(at).long is not None:
            return self.dearest(at), False
        return price, True

    def _find(self, tier: str, now: float) -> tuple[float, float, Price]:
        if now >= self._until:
            last = datetime.datetime.fromtimestamp(self._until - DAY_SECONDS, datetime.UTC).date()
            raise ApiError(
                "price_missing",
                f"The price list of this service ended on {last}, so nothing can be paid for; an operator checks the "
                "prices, moves `valid_until` in app/prices.yaml and deploys.",
            )
        rows = self._prices.get(tier, ())
        for index in reversed(range(len(rows))):
            if rows[index][0] <= now:
                end = rows[index + 1][0] if index + 1 < len(rows) else self._until
                return rows[index][0], min(end, self._until), rows[index][1]
        raise ApiError(
            "price_missing",
            f"{self.model} has no price in the tier '{tier[:40]}' today; an operator adds its row to app/prices.yaml "
            "and deploys.",
        )


class Prices:
    """The checked price file. Immutable."""

    def __init__(self, document: object, *, regional: bool = False, clock: Callable[[], float] = time.time) -> None:
        """`regional`: the calls go to a regional host; raises PriceFileError that names every fault."""
        checked = _checked(document)
        self.version: str = checked["version"]
        self.valid_until = datetime.date.fromisoformat(checked["valid_until"])
        until = _seconds(checked["valid_until"]) + DAY_SECONDS
        self._tariffs = {
            model: Tariff(model, prices, until, clock) for model, prices in _tables(checked, regional=regional).items()
        }

    def tariff(self, model: str) -> Tariff | None:
        """The prices of a model; None when no row names it."""
        return self._tariffs.get(model)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that has a price."""
        return tuple(self._tariffs)


@functools.cache
def default_prices(*, regional: bool = False) -> Prices:
    """The price file inside the image."""
    import yaml

    return Prices(yaml.safe_load(PRICES.read_text(encoding="utf-8")), regional=regional)


def is_regional(base_url: str) -> bool:
    """Whether calls to this address are processed in one region, which costs more."""
    return _REGIONAL_HOST.fullmatch(urlsplit(base_url).hostname or "") is not None


def pico_per_token(usd_per_million: str) -> int:
    """A price in USD per million tokens (at most six decimals) as pico-dollars per token, exactly."""
    pico = Decimal(usd_per_million) * PICO_PER_TOKEN
    if pico != pico.to_integral_value() or pico < 0:
        raise ValueError(f"{usd_per_million!r} is not a whole number of pico-dollars per token")
    return int(pico)


def usd(pico: int) -> str:
    """Dollars as people read them: cents, or as many decimals as the first two digits of less than a cent need."""
    amount = abs(Decimal(pico)) / PICO_PER_USD
    digits = 2 if amount >= Decimal("0.01") or not amount else min(12, 1 - amount.adjusted())
    return f"{'-' if pico < 0 else ''}${amount:,.{digits}f}"


def _seconds(date: str) -> float:
    return datetime.datetime.fromisoformat(date).replace(tzinfo=datetime.UTC).timestamp()


def _tables(document: Mapping[str, Any], *, regional: bool) -> dict[str, dict[str, tuple[tuple[float, Price], ...]]]:
    rows = sorted(document["rows"], key=lambda row: str(row["from"]))
    rates = {(row["model"], row["tier"], row["from"], row["band"]): _rates(row) for row in rows}
    since = document["regional"]["models_since"]
    born = {row["model"]: row["from"] for row in reversed(rows)}
    tables: dict[str, dict[str, tuple[tuple[float, Price], ...]]] = {}
    for (model, tier, first, band), short in rates.items():
        if band != "short":
            continue
        dearer = document["regional"]["uplift_percent"] if regional and born[model] >= since else 0
        price = Price(
            input=short.input,
            cached_input=short.cached_input,
            cache_write=short.cache_write,
            output=short.output,
            long=rates.get((model, tier, first, "long")),
            above=document["long_context_above_input_tokens"],
            percent=100 + dearer,
            version=document["version"],
        )
        tiers = tables.setdefault(model, {})
        tiers[tier] = (*tiers.get(tier, ()), (_seconds(first), price))
    return tables


def _rates(row: Mapping[str, str]) -> Rates:
    """Classes that a model's page does not give cost its input price; an embedding has no output."""
    return Rates(**{name: pico_per_token(row.get(name, row["input"] if name != "output" else "0")) for name in CLASSES})


def _checked(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise PriceFileError([f"it is {document!r:.60}, not an object"])
    problems = [f"{name}: is missing" for name in _FIELDS if name not in document]
    problems += [f"{name}: is unknown; known are {', '.join(_FIELDS)}" for name in document if name not in _FIELDS]
    if problems:
        raise PriceFileError(problems)
    sources, rows = document["sources"], document["rows"]
    problems = _head_problems(document)
    if not isinstance(sources, dict) or not isinstance(rows, list) or not rows:
        raise PriceFileError([*problems, "sources and rows: must be an object of texts and a list of rows"])
    seen: set[tuple[str, ...]] = set()
    for index, row in enumerate(rows):
        problems += [f"rows[{index}]{problem}" for problem in _row_problems(row, sources, seen)]
    problems += [
        f"{model} {tier} {first}: has a long row and no short one"
        for model, tier, band, first in seen
        if band == "long" and (model, tier, "short", first) not in seen
    ]
    if problems:
        raise PriceFileError(problems)
    return document


def _head_problems(document: Mapping[str, Any]) -> list[str]:
    regional = document["regional"] if isinstance(document["regional"], dict) else {}
    dates = {"valid_until": document["valid_until"], "regional.models_since": regional.get("models_since")}
    numbers = {
        "long_context_above_input_tokens": document["long_context_above_input_tokens"],
        "regional.uplift_percent": regional.get("uplift_percent"),
    }
    problems = [
        f"{path}: {value!r:.60} is not a date like 2026-11-22, as a text"
        for path, value in dates.items()
        if not _is_date(value)
    ]
    problems += [
        f"{path}: {number!r:.60} is not a whole number of 0 or more"
        for path, number in numbers.items()
        if type(number) is not int or number < 0
    ]
    if not isinstance(document["version"], str) or not document["version"]:
        problems.append("version: is not a text; write the day the sources were read")
    return problems


def _row_problems(row: object, sources: Mapping[str, object], seen: set[tuple[str, ...]]) -> list[str]:
    if not isinstance(row, dict):
        return [": is not an object"]
    problems = [
        f".{name}: is missing" for name in ("model", "tier", "band", "from", "input", "source") if not row.get(name)
    ]
    problems += [f".{name}: is unknown; known are {', '.join(_ROW_FIELDS)}" for name in row if name not in _ROW_FIELDS]
    if problems:
        return problems
    for name, known in (("tier", TIERS), ("band", BANDS), ("source", tuple(sources))):
        if row[name] not in known:
            problems.append(f".{name}: {row[name]!r:.60} is not one of {', '.join(map(str, known))}")
    if not _is_date(row["from"]):
        problems.append(f".from: {row['from']!r:.60} is not a date like 2026-11-22, as a text")
    for name in CLASSES:
        if name in row and (not isinstance(row[name], str) or _USD.fullmatch(row[name]) is None):
            problems.append(f'.{name}: {row[name]!r:.60} is not USD per million tokens as a text, like "0.125"')
    key = tuple(str(row[name]) for name in ("model", "tier", "band", "from"))
    if key in seen:
        problems.append(f": {' '.join(key)} stands there twice")
    seen.add(key)
    return problems


def _is_date(value: object) -> bool:
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        return False
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        return False
    return True
