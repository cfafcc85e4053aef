"""Check the lease protocol on random histories: `python -m tests.ledger_check --traces N [--seed S]`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.ledger_check import MUTANTS, BrokenError, check, mutant

PROGRESS_SECONDS = 10.0


class Progress:
    """A line now and then on standard error: what was done, and how fast."""

    def __init__(self, traces: int) -> None:
        self._traces = traces
        self._began = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            pace = done / (now - self._began)
            left = (self._traces - done) / pace
            sys.stderr.write(f"{done} of {self._traces} histories, {pace:.0f} a second, {left:.0f} s to go\n")


def main() -> int:
    """Check, print what was checked, 1 when an invariant broke."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.ledger_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--traces", type=int, default=10_000, help="histories to run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first history; each next one has the next")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="run a wrong protocol instead: it has to fail")
    asked = parser.parse_args()
    began = time.process_time()
    try:
        if asked.mutant:
            with mutant(asked.mutant):
                check(asked.traces, asked.seed, Progress(asked.traces))
        else:
            check(asked.traces, asked.seed, Progress(asked.traces))
    except BrokenError as broken:
        sys.stdout.write(f"{broken}\n")
        return 1
    seconds = time.process_time() - began
    last = asked.seed + asked.traces - 1
    sys.stdout.write(f"{asked.traces} histories, seeds {asked.seed} to {last}: I1 to I7 hold; {seconds:.1f} s of CPU\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
