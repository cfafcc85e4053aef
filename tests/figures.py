"""`python -m tests.figures`: how long a recording takes, and how many tests state a property; for docs/figures.md."""

import ast
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from preflight.project import Project
from preflight.record import record

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
FRESH = "from preflight.record import record; record({stack!r})"


def fresh_seconds(stack: str) -> float:
    """A recording in a process of its own, imports included."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", FRESH.format(stack=stack)], cwd=ROOT, check=True)
    return time.monotonic() - started


def warm_seconds(stack: str) -> float:
    """A recording in a process that has made one before."""
    started = time.monotonic()
    record(stack)
    return time.monotonic() - started


def properties(folder: Path) -> int:
    """Tests that Hypothesis gives their input: functions with `@given`, and state machines."""
    found = 0
    for file in folder.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += any(ast.unparse(one).startswith("given(") for one in node.decorator_list)
            elif isinstance(node, ast.ClassDef):
                found += any("RuleBasedStateMachine" in ast.unparse(one) for one in node.bases)
    return found


def main() -> None:
    """Print every figure."""
    for stack in Project.load().stack_names():
        fresh = [fresh_seconds(stack) for _ in range(ROUNDS)]
        record(stack)
        warm = [warm_seconds(stack) for _ in range(ROUNDS)]
        print(f"record {stack:<8} fresh process {median(fresh):.2f} s, again in one process {median(warm):.2f} s")
    tests = ROOT / "tests"
    ours = sum(properties(tests / part) for part in ("components", "dynamic", "preflight", "stacks"))
    print(f"property tests   {properties(tests)}, of them {ours} on infrastructure")


if __name__ == "__main__":
    main()
