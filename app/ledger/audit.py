"""Do the entries say what OpenAI billed? Compared by model, token by token first, then dollar by dollar. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from app.ledger.entries import Entry, Page
from app.ledger.item import Item
from app.prices import PICO_PER_USD

CLOSE_PICO = PICO_PER_USD // 100
CLOSE_SHARE = 1_000
"""Dollars agree within a cent or a tenth of a percent: OpenAI's costs are floats of unknown rounding."""


class Tokens(NamedTuple):
    """Of one model and day."""

    input: int = 0
    output: int = 0

    def plus(self, other: Tokens) -> Tokens:
        """Both together."""
        return Tokens(self.input + other.input, self.output + other.output)


@dataclass(slots=True)
class Booked:
    """What the entries of one model say."""

    exact: Tokens = field(default_factory=Tokens)
    estimated: Tokens = field(default_factory=Tokens)
    exact_pico: int = 0
    estimated_pico: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One model's comparison."""

    model: str
    booked: Booked
    billed: Tokens
    unexplained: Tokens
    """Billed beyond everything the entries allow for (or, negative, booked exactly and not billed)."""
    corrected_pico: int
    """What is to be added to the entries (negative: taken off the estimates), so that they say what was billed."""

    @property
    def beyond_exact_pico(self) -> int:
        """Billed beyond the exact entries: for the calls that were estimated, and for any that nobody wrote down."""
        return max(0, self.corrected_pico + self.booked.estimated_pico)

    @property
    def hides_pico(self) -> int:
        """The most that estimates can have paid for in place of calls that nobody wrote down."""
        own, theirs = self.booked, self.billed
        room = min(own.estimated.input, theirs.input - own.exact.input) > 0
        room = room or min(own.estimated.output, theirs.output - own.exact.output) > 0
        return self.beyond_exact_pico if room else 0


def book(sums: dict[str, Booked], entries: Iterable[Entry]) -> None:
    """Add entries to sums by model."""
    for entry in entries:
        if not entry.input and not entry.output and not entry.pico:
            continue
        one, tokens = sums.setdefault(entry.model, Booked()), Tokens(max(0, entry.input), max(0, entry.output))
        one.attempts += 1
        if "estimated" in entry.flags:
            one.estimated, one.estimated_pico = one.estimated.plus(tokens), one.estimated_pico + entry.pico
        else:
            one.exact, one.exact_pico = one.exact.plus(tokens), one.exact_pico + entry.pico


def compare(
    mine: Mapping[str, Booked], billed: Mapping[str, Tokens], billed_pico: Mapping[str, int], suspense: bool
) -> list[Finding]:
    """A finding for each model. An estimate explains anything up to itself; open suspense explains what lies beyond."""
    found = []
    for model in sorted({*mine, *billed}):
        own, theirs = mine.get(model, Booked()), billed.get(model, Tokens())
        beyond = Tokens(
            _outside(theirs.input, own.exact.input, own.estimated.input, suspense),
            _outside(theirs.output, own.exact.output, own.estimated.output, suspense),
        )
        more = billed_pico.get(model, 0) - own.exact_pico - own.estimated_pico
        found.append(Finding(model, own, theirs, beyond, more))
    return found


def _outside(billed: int, exact: int, estimated: int, suspense: bool) -> int:
    """How far a count lies outside of what the entries allow."""
    if billed < exact:
        return billed - exact
    return 0 if suspense else max(0, billed - exact - estimated)


def dollars_agree(ledger_pico: int, billed_pico: int) -> bool:
    """Whether two amounts are the same, as far as OpenAI's floats can say."""
    return abs(ledger_pico - billed_pico) <= max(CLOSE_PICO, billed_pico // CLOSE_SHARE)


def broken_sums(items: Mapping[str, Item]) -> list[str]:
    """What does not add up in the items of one window: each item in itself, and tenants to the organisation."""
    problems = []
    for scope, item in items.items():
        held = (
            item.avail + item.spent + item.aside + sum(slot.amt for slot in (*item.slots.values(), *item.susp.values()))
        )
        if held != item.limit:
            problems.append(
                f"{scope}: available, spent, leased, suspended and set aside money is {held}, the limit {item.limit}"
            )
    tenants = sum(item.spent for scope, item in items.items() if scope.startswith("tenant:"))
    busy = any(item.slots or item.susp for item in items.values())
    if "org" in items and not busy and tenants != items["org"].spent:
        problems.append(f"tenants spent {tenants} together, the organisation {items['org'].spent}")
    return problems


def charge(sums: dict[str, int], page: Page) -> None:
    """Add what a page charged each lease."""
    for _, _, handle, pico in page.leases:
        sums[handle] = sums.get(handle, 0) + pico


def share_out(residual: int, rooms: Mapping[str, int]) -> dict[str, int]:
    """Give what a silent holder was billed to its leases: first come, first filled; the last takes the rest."""
    shares, left = {}, max(0, residual)
    for number, (name, room) in enumerate(rooms.items(), 1):
        shares[name] = left if number == len(rooms) else min(left, max(0, room))
        left -= shares[name]
    return shares
