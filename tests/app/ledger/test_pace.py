"""How often the ledger writes: soon for much, seldom for little."""

from __future__ import annotations

from app.ledger.entries import MAX_ENTRIES
from app.ledger.lease import Lease
from app.ledger.pace import (
    FEW,
    FEW_PAGE_SECONDS,
    IDLE_SECONDS,
    LITTLE_IDLE_SECONDS,
    LITTLE_PICO,
    LITTLE_PUBLISH_SECONDS,
    PAGE_SECONDS,
    PUBLISH_SECONDS,
    beat_seconds,
    idle_seconds,
    page_due,
    publish_due,
)
from app.ledger.watch import DEAD_SECONDS, HEARTBEAT_SECONDS, QUIET_HEARTBEAT_SECONDS
from app.prices import PICO_PER_USD


def test_an_entry_after_a_pause_is_written_at_once_and_a_few_after_it_together() -> None:
    assert page_due(1, float("inf"))
    assert not page_due(FEW - 1, PAGE_SECONDS)
    assert page_due(1, FEW_PAGE_SECONDS)
    assert page_due(FEW, PAGE_SECONDS)
    assert not page_due(FEW, PAGE_SECONDS - 0.1)
    assert page_due(MAX_ENTRIES, 0.0)
    assert not page_due(0, float("inf"))


def lease(unsaid: int, limit: int) -> Lease:
    made = Lease("tenant:acme", "M2026-11", "boot.1")
    made.filed, made.limit, made.published_at = unsaid, limit, 1_000.0
    return made


def test_an_item_learns_of_a_cent_within_half_a_minute_and_of_less_within_ten() -> None:
    much, little = lease(LITTLE_PICO, 100 * PICO_PER_USD), lease(LITTLE_PICO - 1, 100 * PICO_PER_USD)
    assert publish_due(much, 1_000.0 + PUBLISH_SECONDS)
    assert not publish_due(much, 999.9 + PUBLISH_SECONDS)
    assert not publish_due(little, 1_000.0 + PUBLISH_SECONDS)
    assert publish_due(little, 1_000.0 + LITTLE_PUBLISH_SECONDS)


def test_a_hundredth_of_a_budget_is_said_at_once_and_nothing_never() -> None:
    limit = PICO_PER_USD // 10
    assert publish_due(lease(limit // 100, limit), 1_000.0)
    assert not publish_due(lease(limit // 101, limit), 1_000.0)
    assert not publish_due(lease(0, limit), 1e9)


def test_an_idle_lease_is_kept_for_longer_where_others_hardly_miss_it() -> None:
    made = lease(0, 20_000)
    made.amt, made.total, made.avail = 150, 50, 10_000
    assert idle_seconds(made) == LITTLE_IDLE_SECONDS
    made.amt = 151
    assert idle_seconds(made) == IDLE_SECONDS
    made.amt, made.avail = 150, 9_999
    assert idle_seconds(made) == IDLE_SECONDS, "the budget is more than half used"


def test_a_process_with_little_to_do_beats_half_as_often_and_not_too_seldom_for_those_who_watch_it() -> None:
    assert beat_seconds(FEW) == HEARTBEAT_SECONDS
    assert beat_seconds(FEW - 1) == QUIET_HEARTBEAT_SECONDS <= DEAD_SECONDS - 15


def test_what_a_block_that_is_asked_for_says_is_not_said_twice() -> None:
    made = lease(LITTLE_PICO, PICO_PER_USD)
    made.block = 1
    assert not publish_due(made, 1e9)
