"""The machine and the moment of a measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchmarks.interpreter import Interpreter
from benchmarks.world import can_pin


def describe(interpreter: Interpreter) -> dict[str, str | int | float | bool]:
    """What a reader needs to compare figures: processor, memory, kernel, interpreter, pinning and how busy it was."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{interpreter.version} ({interpreter.why})",
        "pinned": can_pin(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
