"""`python -m benchmarks run`: the gateway beside its rivals, in one run of at most 15 minutes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from benchmarks import interpreter, report, results
from benchmarks._gate import kept_ratio, verdict
from benchmarks.interpreter import BadInterpreterError, Interpreter
from benchmarks.measure import Lengths
from benchmarks.results import BadResultError
from benchmarks.run import full, ratio
from benchmarks.targets import STARTS
from benchmarks.world import MissingError
from local.children import ChildFailedError

ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 when a gate is not passed or something needed is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure; a run of every target writes the result and docs/performance.md")
    run.add_argument(
        "--quick", action="store_true", help="only CPU time against the floor, compared with the kept result"
    )
    run.add_argument("--only", type=_names, help=f"some of {','.join(STARTS)}; shows the result and writes nothing")
    run.add_argument("--rounds", type=_rounds, default=ROUNDS, help=f"1 to 50, default {ROUNDS}")
    run.add_argument("--python", metavar="PATH", help="run what is measured on this Python, not on the fastest at hand")
    options = parser.parse_args(argv)
    try:
        chosen = interpreter.asked_for(options.python) if options.python else interpreter.best(_say)
        _say(f"Python {chosen.version}: {chosen.why}")
        return _quick(chosen) if options.quick else _full(options.only, options.rounds, chosen)
    except (MissingError, ChildFailedError, BadInterpreterError, BadResultError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _full(only: list[str] | None, rounds: int, chosen: Interpreter) -> int:
    result = asyncio.run(full(only or list(STARTS), rounds, Lengths(), _say, chosen))
    print(report.render(result))
    if only:
        return 0
    path = results.save(result)
    report.write(results.load(path))  # as the file says it, rounded: the page is held against the file
    print(f"written: {path.name} and {report.PAGE.name}")
    return 0


def _quick(chosen: Interpreter) -> int:
    kept = results.newest()
    own, floor = asyncio.run(ratio(_say, chosen))
    passed, line = verdict(own, floor, kept_ratio(kept.summary) if kept else None)
    print(line)
    return 0 if passed else 1


def _names(text: str) -> list[str]:
    """Targets in the report's order; the direct call always, as latencies are compared with it."""
    asked = {"direct", *filter(None, text.split(","))}
    unknown = sorted(asked - set(STARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose from {', '.join(STARTS)}")
    return [name for name in STARTS if name in asked]


def _rounds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 50:
        raise argparse.ArgumentTypeError("a whole number from 1 to 50")
    return int(text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
