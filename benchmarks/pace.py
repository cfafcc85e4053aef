"""How fast an interpreter is on this machine at this moment: the CPU time of a fixed piece of pure Python work.

`python -I pace.py` says it of the interpreter that runs it, in one JSON line. It imports nothing but the standard
library, so that any interpreter can run it.
"""

import json
import os
import platform
import sys
import time

SECONDS = 0.15


class _Point:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y

    def moved(self, by: int) -> "_Point":
        return _Point(self.x + by, self.y - by)


def work() -> int:
    """A fifth of a millisecond of what request handling is made of: calls, attributes, dictionaries, small text."""
    seen: dict[str, _Point] = {}
    total = 0
    for number in range(600):
        name = f"key:{number % 50}"
        point = seen.get(name)
        seen[name] = point = _Point(number, 0) if point is None else point.moved(1)
        total += point.x + len(name.encode())
    return total


def pieces(seconds: float = SECONDS) -> list[int]:
    """Nanoseconds of CPU time of each piece of work for so long: the least is undisturbed, the median is not."""
    found: list[int] = []
    until = time.monotonic() + seconds
    while not found or time.monotonic() < until:
        began = time.thread_time_ns()
        work()
        found.append(time.thread_time_ns() - began)
    return found


if __name__ == "__main__":
    home = getattr(sys, "_base_executable", sys.executable)
    said = {"home": os.path.realpath(home), "version": platform.python_version(), "nanoseconds": min(pieces())}
    sys.stdout.write(json.dumps(said))
