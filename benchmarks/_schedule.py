"""When an open-model generator sends: moments fixed before the first answer, so that a slow server cannot slow it."""

from __future__ import annotations

import random


def constant(rate: float, seconds: float) -> list[float]:
    """Offsets in seconds of `rate` requests a second, evenly spaced."""
    return [index / rate for index in range(int(rate * seconds))]


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Offsets in seconds of independent arrivals, `rate` a second on average; the same seed gives the same ones.

    Arrivals of independent callers come in bursts, which an even spacing would hide.
    """
    source = random.Random(seed)
    offsets = []
    at = source.expovariate(rate)
    while at < seconds:
        offsets.append(at)
        at += source.expovariate(rate)
    return offsets
