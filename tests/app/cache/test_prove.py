"""The claims of `make prove`, with fewer requests: three replicas as real processes."""

from __future__ import annotations

import asyncio

import pytest

from tests.app.conftest import CloudParts
from tests.prove.fleet import fleet
from tests.prove.invalidation import invalidation
from tests.prove.permutations import permutations, tenants
from tests.prove.steps import steps
from tests.prove.waiters import identical, killed

pytestmark = pytest.mark.process


def test_what_is_claimed_of_replicas_together_holds(cloud: CloudParts) -> None:
    with fleet(cloud) as up:
        claims = [
            asyncio.run(identical(up, 30, stream=True)),
            asyncio.run(permutations(up, 40)),
            asyncio.run(tenants(up, 10)),
            asyncio.run(invalidation(up, 5))[0],
            asyncio.run(killed(up, 12)),
        ]
    assert [claim for claim in claims if not claim.holds] == []


def test_a_broken_promise_is_a_claim_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cache.epochs.TRUSTED_SECONDS", 60)
    assert not steps(50_000).holds
