"""A policy that is taken out to be measured is gone, and is all there again when it is put back."""

import asyncio
import json

import pytest

from app.ledger import Ledger
from app.limits import Limiter
from app.pipeline.pay import Payment
from benchmarks import world as worlds
from benchmarks.load import batches
from benchmarks.targets import prodkit_switched
from benchmarks.without import PARTS, Switches, tell
from local import cache
from local.children import Children

OWN = {
    (where, name): getattr(where, name) for where, name in ((Payment, "settle"), (Limiter, "take"), (Ledger, "tick"))
}


def changed() -> set[str]:
    return {name for (where, name), method in OWN.items() if getattr(where, name) is not method}


def test_one_part_is_out_at_a_time_and_none_is_left_out() -> None:
    switches = Switches()
    try:
        switches.take_out("ledger")
        assert changed() == {"settle", "tick"}
        switches.take_out("limits")
        assert changed() == {"take"}
    finally:
        switches.take_out(None)
    assert changed() == set()


def test_what_is_compared_with_nothing_switches_as_much_and_changes_nothing() -> None:
    nothing = PARTS["nothing"]()
    assert set(nothing) == {*PARTS["ledger"](), *PARTS["limits"]()}
    Switches().take_out("nothing")
    assert changed() == set()


@pytest.mark.process
@pytest.mark.skipif(cache.installed() is None, reason="neither redis-server nor valkey-server is on PATH")
async def test_a_running_replica_counts_and_pays_again_as_soon_as_it_is_told() -> None:
    async with Children() as children:
        world = await worlds.build(children)
        target = await prodkit_switched(children, world)
        with batches(target.port, target.requests("whole"), connections=1) as ask:
            for part in (None, "ledger", "limits", "nothing", None):
                tell(target.child.pid, part)
                assert ask(2) == 2
                await asyncio.sleep(0.2)  # paid for once it is sent
        await children.stop(target.child)
        lines = [json.loads(line) for line in target.child.log.read_text().splitlines() if line.startswith("{")]
    paid = [line["cost_usd"] > 0 for line in lines if line.get("event") == "request"]
    assert paid == [True, True, False, False, *[True] * 6]
