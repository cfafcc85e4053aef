"""Whether a change made the gateway slower: CPU time as a multiple of the floor's, which cancels the machine out.

Of several rounds the least counts: whatever else runs on a machine only ever adds to CPU time.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks._statistics import Spread

TOLERANCE = 1.5
"""Shared machines disturb the ratio by a fifth; a change that costs half as much again is a mistake."""


def kept_ratio(summary: Mapping[str, Mapping[str, Spread]]) -> float | None:
    """prodkit's CPU time a request over the floor's, in a kept result; None when it lacks one of them."""
    own, floor = (summary.get(name, {}).get("cpu_us_per_request") for name in ("prodkit", "passthrough"))
    return own.least / floor.least if own and floor else None


def verdict(own_us: float, floor_us: float, kept: float | None) -> tuple[bool, str]:
    """Whether the gate is passed, and the line that says so."""
    now = own_us / floor_us
    measured = f"prodkit {own_us:.0f} µs CPU a request, floor {floor_us:.0f} µs: {now:.2f} times the floor"
    if kept is None:
        return (
            False,
            f"{measured}. There is no kept result to compare with: run `make bench` and commit what it writes.",
        )
    bound = kept * TOLERANCE
    if now <= bound:
        return True, f"{measured}, kept result {kept:.2f}, bound {bound:.2f}"
    return False, (
        f"{measured}, which is more than {bound:.2f} ({TOLERANCE} times the kept {kept:.2f}). A request costs more CPU "
        "than before: profile it, or run `make bench` and commit the result if the cost is wanted."
    )
