"""Prove what is promised about replicas together: each claim with what was promised and what was seen.

Exit code 1 when one does not hold. About two minutes, on one machine, over loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator

from tests.app.conftest import CloudParts, emulated_cloud
from tests.prove.fleet import Claim, fleet
from tests.prove.invalidation import invalidation
from tests.prove.permutations import permutations, tenants
from tests.prove.steps import steps
from tests.prove.waiters import identical, killed

WAITERS = 1_000


def cache(waiters: int) -> Iterator[Claim]:
    """The claims of docs/cache.md."""
    yield steps(100_000)
    with emulated_cloud() as cloud:
        for cluster in (False, True):
            yield from _over_replicas(cloud, waiters, cluster=cluster)


def _over_replicas(cloud: CloudParts, waiters: int, *, cluster: bool) -> Iterator[Claim]:
    with fleet(cloud, cluster=cluster) as up:
        yield asyncio.run(identical(up, waiters, stream=False))
        yield asyncio.run(identical(up, waiters, stream=True))
        if not cluster:
            yield asyncio.run(permutations(up, 1_000))
            yield asyncio.run(tenants(up, 200))
        yield from asyncio.run(invalidation(up, 300))
        yield asyncio.run(killed(up, waiters))


def main() -> int:
    """Write each claim as it is known."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("--waiters", type=int, default=WAITERS, help="who ask the same at once (default %(default)s)")
    given = parser.parse_args()
    failed = 0
    for claim in cache(given.waiters):
        failed += not claim.holds
        line = f"{'holds ' if claim.holds else 'BROKEN'}  {claim.name}: promised {claim.promised}; seen {claim.seen}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
