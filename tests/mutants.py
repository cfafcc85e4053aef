"""`make mutants`: break one line at a time in a copy of the tree; a unit test must notice each, or the run fails.

The lines decide over timeouts, scaling, network and secrets: what is wrong there is noticed late and costs much. A text
that is no longer found exactly once fails too, so the list cannot rot.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "node_modules")
RUN_SECONDS = 120
PASSED, FAILED = 0, 1
"""pytest's exit statuses; every other one means that it could not run the tests."""


@dataclass(frozen=True)
class Mutant:
    """One line made wrong."""

    harm: str
    """What the change would do."""
    file: str
    old: str
    """Found exactly once in the file."""
    new: str
    tests: str
    """The test file that has to notice."""

    def applied(self, text: str) -> str:
        """The file's text with the change. ValueError when `old` is not there exactly once."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {found} times; mend the mutant {self.harm!r}")
        return text.replace(self.old, self.new)


def _of(tests: str, file: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(harm, file, old, new, tests) for harm, old, new in changes]


TIMEOUTS = _of(
    "tests/components/test_timeouts.py",
    "components/_timeouts.py",
    (
        "a deploy waits less than the longest stream",
        "deregistration_delay = min(max_stream_seconds + _MARGIN_SECONDS, LONGEST_STREAM_SECONDS)",
        "deregistration_delay = min(max_stream_seconds - _MARGIN_SECONDS, LONGEST_STREAM_SECONDS)",
    ),
    (
        "the balancer's 504 comes with our own",
        "max(SHORTEST_IDLE_SECONDS, request_timeout + _MARGIN_SECONDS)",
        "max(SHORTEST_IDLE_SECONDS, request_timeout)",
    ),
    (
        "the app closes a connection as the balancer uses it",
        "app_keep_alive_seconds=alb_idle + _MARGIN_SECONDS",
        "app_keep_alive_seconds=alb_idle",
    ),
    (
        "a task stops listening before the balancer notices",
        "readiness_grace = HEALTH_CHECK_INTERVAL_SECONDS * UNHEALTHY_THRESHOLD",
        "readiness_grace = HEALTH_CHECK_INTERVAL_SECONDS",
    ),
    ("a silent model's stream is idle", "HEARTBEAT_SECONDS = 15", "HEARTBEAT_SECONDS = 45"),
)
SCALING = [
    *_of(
        "tests/components/test_scaling.py",
        "components/_scaling.py",
        ("the service shrinks and grows in turns", "SCALE_IN_SHARE = 0.4", "SCALE_IN_SHARE = 0.6"),
        ("a little too much load stays too much", "((0.0, 25),", "((0.0, 15),"),
        ("an idle processor removes busy tasks", '"disable_scale_in": True', '"disable_scale_in": False'),
        (
            "an empty Spot market leaves no task at all",
            '_provider("FARGATE", 100 - spot_percent, 1)',
            '_provider("FARGATE", 100 - spot_percent, 0)',
        ),
        ("an empty queue divides by no task", "FILL(running, 1)", "FILL(running, 0)"),
    ),
    *_of(
        "tests/components/test_fargate.py",
        "components/_fargate.py",
        (
            "a size is accepted that Fargate refuses",
            "512: tuple(range(1 * _GIB, 4 * _GIB + 1, _GIB))",
            "512: tuple(range(1 * _GIB, 5 * _GIB + 1, _GIB))",
        ),
    ),
]
NETWORK = [
    *_of(
        "tests/components/test_cidr.py",
        "components/_cidr.py",
        (
            "tasks get the small subnets and balancers the large",
            "private, rest = network.subnets(prefixlen_diff=1)",
            "rest, private = network.subnets(prefixlen_diff=1)",
        ),
        ("a network within another one is no overlap", "if network.overlaps(taken):", "if network == taken:"),
    ),
    *_of(
        "tests/components/test_network.py",
        "components/network.py",
        ("whatever starts gets a public address", "map_public_ip_on_launch=False", "map_public_ip_on_launch=True"),
        ("the loss of one zone takes every zone offline", "nats[index % len(nats)].id", "nats[0].id"),
    ),
    *_of(
        "tests/components/test_container_service.py",
        "components/_task_resources.py",
        ("tasks may connect to any port outside", "from_port=443,", "from_port=0,"),
    ),
    *_of(
        "tests/components/test_container_service.py",
        "components/container_service.py",
        (
            "a deploy stops a task before its successor is there",
            "deployment_minimum_healthy_percent=100",
            "deployment_minimum_healthy_percent=50",
        ),
    ),
    *_of(
        "tests/components/test_load_balancer.py",
        "components/load_balancer.py",
        (
            "malformed headers reach the app",
            "drop_invalid_header_fields=True",
            "drop_invalid_header_fields=False",
        ),
    ),
]
SECRETS = [
    *_of(
        "tests/components/test_encryption.py",
        "components/encryption.py",
        ("keys stay the same for ever", "enable_key_rotation=True", "enable_key_rotation=False"),
    ),
    *_of(
        "tests/components/test_policies.py",
        "components/_policies.py",
        (
            "another account makes a service take the role",
            '= {"StringEquals": {"aws:SourceAccount": account_id}}\n    if source_arns',
            "= {}\n    if source_arns",
        ),
    ),
    *_of(
        "tests/components/test_api_key.py",
        "components/api_key.py",
        (
            "the app reads every secret of the account",
            'statement(["secretsmanager:GetSecretValue"], key.arn, sid="ReadOpenAIKey")',
            'statement(["secretsmanager:GetSecretValue"], "*", sid="ReadOpenAIKey")',
        ),
    ),
    *_of(
        "tests/components/test_storage.py",
        "components/storage.py",
        (
            "the app can delete what was spent",
            'statement(no_batch, ledger, sid="Ledger")',
            'statement(read_write, ledger, sid="Ledger")',
        ),
        ("a policy can make a bucket public", "block_public_policy=True", "block_public_policy=False"),
    ),
    *_of(
        "tests/components/test_cache.py",
        "components/cache.py",
        ("the app may empty the cache and stop it", '" -@admin -@dangerous', '" -@admin'),
    ),
]
MUTANTS = [*TIMEOUTS, *SCALING, *NETWORK, *SECRETS]


def tested(tree: Path, tests: Sequence[str]) -> int:
    """pytest's exit status for some test files of a tree; -1 when it took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # A change may leave a file's size and second as they were, which is all that a .pyc file is checked by.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=RUN_SECONDS).returncode
    except subprocess.TimeoutExpired:
        return -1


def fate(mutant: Mutant, tree: Path) -> str:
    """What became of a mutant in a copy of the tree: `caught`, `survived` or what went wrong."""
    path = tree / mutant.file
    whole = path.read_text()
    try:
        path.write_text(mutant.applied(whole))
        status = tested(tree, [mutant.tests])
    except ValueError as missing:
        return str(missing)
    finally:
        path.write_text(whole)
    return {FAILED: "caught", PASSED: "survived"}.get(status, f"{mutant.tests} could not run: status {status}")


def run(mutants: Sequence[Mutant], at_once: int) -> int:
    """Print the fate of each mutant and the total; 0 when all were caught."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prodkit-mutants-") as directory:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(at_once):
            trees.put(shutil.copytree(ROOT, Path(directory) / str(number), ignore=NOT_COPIED))

        def in_a_tree(mutant: Mutant) -> str:
            tree = trees.get()
            try:
                return fate(mutant, tree)
            finally:
                trees.put(tree)

        whole = trees.get()
        if status := tested(whole, sorted({mutant.tests for mutant in mutants})):
            _say(f"the tests fail without any change (status {status}): mend them first")
            return 1
        trees.put(whole)
        caught = 0
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            for mutant, said in zip(mutants, pool.map(in_a_tree, mutants), strict=True):
                caught += said == "caught"
                _say(f"{said:9} {mutant.file:36} {mutant.harm}")
    _say(f"{caught} of {len(mutants)} caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(mutants) else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose file or harm has this in it")
    parser.add_argument("--at-once", type=int, default=2, help="how many at the same time (default %(default)s)")
    given = parser.parse_args()
    if given.at_once < 1:
        parser.error(f"{given.at_once} at once; choose 1 or more")
    mutants = [mutant for mutant in MUTANTS if given.only in f"{mutant.file} {mutant.harm}"]
    if not mutants:
        parser.error(f"no mutant has {given.only!r} in it")
    return run(mutants, given.at_once)


if __name__ == "__main__":
    sys.exit(main())
