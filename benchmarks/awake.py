"""Keeps CPUs from halting while something is measured, as machines for low latency are set up."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator
from pathlib import Path

QUALITY_OF_SERVICE = Path("/dev/cpu_dma_latency")
"""Linux's own way (Documentation/power/pm_qos_interface): while it is open, an idle CPU wakes within the microseconds
that were written to it. With 0 it waits in a loop and does not halt."""


@contextlib.contextmanager
def kept_awake() -> Iterator[None]:
    """No CPU of this machine halts inside the block; raises OSError where we may not see to that."""
    with QUALITY_OF_SERVICE.open("wb", buffering=0) as wish:
        wish.write(struct.pack("i", 0))
        yield


@functools.cache
def can_keep_awake() -> bool:
    """Whether this is Linux and we are allowed to, which mostly means root."""
    try:
        with kept_awake():
            return True
    except OSError:
        return False
