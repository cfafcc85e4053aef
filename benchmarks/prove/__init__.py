"""What the documentation promises in numbers, measured on one replica under load; for `make prove`. One module a claim.

A module has `async def measure(children, world) -> list[Figure]`, and a docstring whose first line is the claim.
"""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from benchmarks import world as worlds
from local.children import Children

SECONDS = 180.0
"""For one claim, after which it has failed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, what it has to be, and whether it is."""

    what: str
    seen: str
    promised: str
    holds: bool

    def line(self) -> str:
        """A row of the answer."""
        return f"  {'ok  ' if self.holds else 'FAIL'}  {self.what}: {self.seen} (promised: {self.promised})"


def names() -> list[str]:
    """Every claim."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def prove(asked: Sequence[str], say: Callable[[str], object]) -> int:
    """Measure some claims and say each figure; the exit code: 1 when one does not hold."""
    good = True
    for name in asked:
        claim = import_module(f"{__name__}.{name}")
        say(f"{name}: {(claim.__doc__ or '').splitlines()[0]}")
        try:
            figures = asyncio.run(_measure(claim))
        except TimeoutError:
            say(f"  FAIL  not measured within {SECONDS:.0f} s")
            good = False
            continue
        for figure in figures:
            say(figure.line())
            good = good and figure.holds
    return 0 if good else 1


async def _measure(claim: object) -> list[Figure]:
    async with asyncio.timeout(SECONDS), Children() as children:
        world = await worlds.build(children)
        figures: list[Figure] = await claim.measure(children, world)  # type: ignore[attr-defined]
        return figures
