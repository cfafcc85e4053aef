"""No stale and no foreign answer in random orders of everything that can happen."""

from __future__ import annotations

from tests.app.cache import simulation
from tests.prove.fleet import Claim

WORLD_STEPS = 10_000


def steps(count: int) -> Claim:
    """Raises nothing: a broken promise is a claim that does not hold."""
    hits = changes = 0
    for seed in range(count // WORLD_STEPS):
        try:
            world = simulation.run(WORLD_STEPS, seed)
        except AssertionError as error:
            return Claim(f"{count} random steps", "0 stale, 0 cross-tenant", f"seed {seed}: {error}", holds=False)
        hits, changes = hits + world.hits, changes + world.changes
    seen = f"0 in {hits} kept answers read, {changes} changes acknowledged"
    return Claim(f"{count} random steps", "0 stale, 0 cross-tenant", seen, holds=True)
