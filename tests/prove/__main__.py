"""Prove what the documentation promises in numbers: each claim with what was promised and what was seen.

Exit code 1 when one does not hold. About four minutes for all, on one machine, over loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from itertools import chain

from benchmarks.prove import names, prove
from tests.app.conftest import CloudParts, emulated_cloud
from tests.prove.fleet import Claim, fleet
from tests.prove.invalidation import invalidation
from tests.prove.limits import in_virtual_time, learnt, strict
from tests.prove.permutations import permutations, tenants
from tests.prove.steps import steps
from tests.prove.waiters import identical, killed

CACHE = "cache"
LIMITS = "limits"
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


def limits() -> Iterator[Claim]:
    """The claims of docs/limits.md."""
    yield from in_virtual_time()
    with emulated_cloud() as cloud, fleet(cloud) as up:
        yield asyncio.run(learnt(up))
        yield asyncio.run(strict(up))


def main(argv: Sequence[str] | None = None) -> int:
    """Write each claim as it is known."""
    known = [CACHE, LIMITS, *names()]
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("claims", nargs="*", metavar="claim", help=f"some of {', '.join(known)}; default all")
    parser.add_argument("--waiters", type=int, default=WAITERS, help="who ask the same at once (default %(default)s)")
    given = parser.parse_args(argv)
    unknown = sorted(set(given.claims) - set(known))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
    asked = given.claims or known
    failed = 0
    claims = chain(cache(given.waiters) if CACHE in asked else (), limits() if LIMITS in asked else ())
    for claim in claims:
        failed += not claim.holds
        _say(f"{'holds ' if claim.holds else 'BROKEN'}  {claim.name}: promised {claim.promised}; seen {claim.seen}")
    return 1 if prove([name for name in names() if name in asked], _say) or failed else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
