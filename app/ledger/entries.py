"""Entries, one for each attempt at OpenAI or for many kept answers, and the pages in which the table keeps them."""

from __future__ import annotations

import datetime
import functools
import zlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from app.prices import DEFAULT

DAY_SECONDS = 86_400
MAX_ENTRIES = 1_000
"""Of one page: compressed below an item's 400 KB, whatever is in them. Writing a page takes the same CPU time however
many it has."""
MAX_OPEN = 500
"""Of what is in flight, on one page."""
MAX_TEXT = 64
"""Characters of a name that OpenAI chose."""
MAX_TIER = 16
"""Of a tier."""
_LEVEL = 1
"""Of zlib: what repeats is out of the columns before it comes to that."""
_WORTH = 4
"""A column whose values occur so often on average says each of them once."""


class Outcome(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    CACHED = "cached"
    """Answered from the cache: nothing was asked of OpenAI."""
    JOINED = "joined"
    """Answered by a call that another request had begun."""
    CANCELLED = "cancelled"
    """Its caller left."""
    CUT = "cut"
    """Ended here: at a stop sequence or where the money ended."""
    FAILED = "failed"
    """OpenAI refused it or broke off."""
    REFUSED = "refused"
    """Not sent: a budget does not allow it."""
    ESTIMATED = "estimated"
    """Answered without a usable count: charged by estimate."""


WITHOUT_ATTEMPT = (Outcome.CACHED, Outcome.JOINED)


class Entry(NamedTuple):
    """One attempt, or several answers that needed none. Tokens as OpenAI counts them; amounts in pico-dollars."""

    id: str
    """The request's id and the number of the attempt, of the first answer where several are counted: in one page."""
    at: float
    """When it began: OpenAI bills it to that day, however late it ends."""
    tenant: str
    key: str
    feature: str
    asked: str
    """The model as the caller named it."""
    model: str
    """The model that served it."""
    tier: str
    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    version: str
    """Of the price file."""
    pico: int
    outcome: str
    upstream: str
    """OpenAI's id of the request."""
    flags: str = ""
    """What is odd about it, words with spaces between: `estimated`, `negative`, `absurd`, `overrun`, `unpriced`."""
    times: int = 1
    """More than one only of kept and joined answers, which asked nothing of OpenAI and cost nothing."""


_NUMBERS = frozenset(
    Entry._fields.index(name) for name in ("input", "cached", "cache_write", "output", "reasoning", "pico", "times")
)


class Kept(NamedTuple):
    """What is the same of all the answers without an attempt that one entry counts."""

    tenant: str
    key: str
    feature: str
    asked: str
    model: str
    version: str
    outcome: Outcome

    def entry(self, name: str, at: float, times: int) -> Entry:
        """The entry for so many of them, under the first one's name and time."""
        nothing = (0, 0, 0, 0, 0)
        return Entry(name, at, *self[:5], DEFAULT, *nothing, self.version, 0, self.outcome.value, "", "", times)


class Page(NamedTuple):
    """Entries that are written together, with what each lease was charged by them."""

    boot: str
    sequence: str
    entries: tuple[Entry, ...]
    leases: tuple[tuple[str, str, str, int], ...]
    """(scope, window, handle, pico) of each lease that was charged."""
    open: tuple[tuple[str, str, str, int], ...]
    """(id, tenant, model, worst case) of what was in flight when the page was made."""

    @property
    def day(self) -> str:
        """The UTC day on which the page was made."""
        return self.sequence[:10]

    def of(self, day: str) -> Page:
        """The page with only those of its entries that began on a UTC day."""
        start = day_start(day)
        kept = tuple(entry for entry in self.entries if start <= entry.at < start + DAY_SECONDS)
        return self if len(kept) == len(self.entries) else self._replace(entries=kept)

    @property
    def at(self) -> float:
        """When it was made."""
        return datetime.datetime.fromisoformat(self.sequence[:19]).replace(tzinfo=datetime.UTC).timestamp()


def day_of(at: float) -> str:
    """The UTC day of a moment."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).date().isoformat()


@functools.lru_cache(maxsize=64)
def day_start(day: str) -> float:
    """When a UTC day begins."""
    return datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp()


def day_after(day: str) -> str:
    """The next UTC day."""
    return day_of(day_start(day) + DAY_SECONDS)


def sequence(at: float, number: int) -> str:
    """Sorts by time, and is used once by a process: `2026-11-22T18:00:00.00000042`."""
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{number:08d}"


def pack(page: Page) -> bytes:
    """The page's body, compressed: a column for each field of its entries, as most say the same many times."""
    columns: list[tuple[Any, ...]] = list(zip(*page.entries, strict=True))
    leases = [[*lease[:3], str(lease[3])] for lease in page.leases]
    flying = [[*each[:3], str(each[3])] for each in page.open]
    try:
        body = orjson.dumps([len(page.entries), list(map(_column, columns)), leases, flying])
    except TypeError:  # a number of more than 64 bits is a text
        columns = [tuple(map(str, each)) if at in _NUMBERS else each for at, each in enumerate(columns)]
        body = orjson.dumps([len(page.entries), list(map(_column, columns)), leases, flying])
    return zlib.compress(body, _LEVEL)


def _column(values: tuple[Any, ...]) -> list[list[Any]]:
    """The values of a column; or each that occurs once, and which of them stands where (nothing when all are one)."""
    known = dict.fromkeys(values)
    if len(known) * _WORTH > len(values):
        return [list(values)]
    if len(known) == 1:
        return [list(known), []]
    places = dict(zip(known, range(len(known)), strict=True))
    return [list(known), list(map(places.__getitem__, values))]


def unpack(boot: str, name: str, body: bytes) -> Page:
    """The page behind a body; raises ValueError when it is none."""
    try:
        *first, leases, flying = orjson.loads(zlib.decompress(body))
        return Page(
            boot,
            name,
            _entries(*first) if len(first) > 1 else tuple(map(_entry, first[0])),
            tuple((scope, window, handle, int(pico)) for scope, window, handle, pico in leases),
            tuple((id_, tenant, model, int(worst)) for id_, tenant, model, worst in flying),
        )
    except (zlib.error, orjson.JSONDecodeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"page {boot}/{name} cannot be read: {error}") from error


def _entries(number: int, columns: list[list[list[Any]]]) -> tuple[Entry, ...]:
    """The rows behind the columns."""
    rows = []
    for at, (known, *places) in enumerate(columns):
        values = list(map(int, known)) if at in _NUMBERS else known
        if places:
            values = [values[place] for place in places[0]] if places[0] else values * number
        rows.append(values)
    return tuple(map(Entry._make, zip(*rows, strict=True)))


def _entry(values: list[Any]) -> Entry:
    """An entry of a page of before pages had columns."""
    if len(values) == len(Entry._fields) - 1:
        values = [*values, 1]  # and of before answers were counted
    return Entry._make([*values[:8], *map(int, values[8:13]), values[13], int(values[14]), *values[15:]])


def shown(entry: Entry) -> dict[str, Any]:
    """An entry as JSON for people and programs; amounts and counts that may be long are texts."""
    return entry._asdict() | {"pico": str(entry.pico)}


def total(entries: Iterable[Entry]) -> int:
    """What entries cost together."""
    return sum(entry.pico for entry in entries)
