from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.budgets.window import Span, moment, window_at, zone_of

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Madrid",
    "Asia/Kathmandu",  # 5:45
    "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Cairo",  # its clocks jump over midnight
    "America/Havana",  # midnight comes twice
    "Pacific/Apia",  # left out a whole day in 2011
]
YEAR_2001, YEAR_2037 = 978_307_200.0, 2_114_380_800.0


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@example("UTC", Span.DAY, 1057190399.9999998)
@given(st.sampled_from(ZONES), st.sampled_from(list(Span)), st.floats(YEAR_2001, YEAR_2037))
def test_windows_follow_each_other_without_gap_or_overlap(name: str, span: Span, now: float) -> None:
    zone = zone_of(name)
    window = window_at(span, now, zone)
    assert window.start <= now < window.end
    assert window_at(span, window.start, zone) == window
    following = window_at(span, window.end, zone)
    assert following.start == window.end
    assert following.name > window.name


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Madrid", "2026-03-29", 23),
        ("Europe/Madrid", "2026-10-25", 25),
        ("America/New_York", "2026-11-01", 25),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Africa/Cairo", "2026-04-24", 23),
        ("UTC", "2026-03-29", 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone: str, day: str, hours: float) -> None:
    window = window_at(Span.DAY, at(f"{day}T12:00", zone), zone_of(zone))
    assert (window.name, window.seconds) == (f"D{day}", hours * 3600)


def test_both_hours_that_a_clock_shows_twice_are_of_the_same_day() -> None:
    zone = zone_of("Europe/Madrid")
    first = at("2026-10-25T02:30", "Europe/Madrid")
    names = {window_at(Span.DAY, second, zone).name for second in (first, first + 3600)}
    assert names == {"D2026-10-25"}
    assert moment(first, zone) == "2026-10-25T02:30:00+02:00"
    assert moment(first + 3600, zone) == "2026-10-25T02:30:00+01:00"


@pytest.mark.parametrize(
    ("now", "name", "days"),
    [
        ("2026-12-31T23:59:59", "M2026-12", 31),
        ("2028-02-29T12:00", "M2028-02", 29),
        ("2026-02-01T00:00", "M2026-02", 28),
    ],
)
def test_a_month_ends_with_its_last_day(now: str, name: str, days: int) -> None:
    window = window_at(Span.MONTH, at(now), UTC)
    assert (window.name, window.seconds) == (name, days * 86_400)


def test_the_owners_month_begins_at_the_owners_midnight() -> None:
    late = at("2026-11-30T22:00")
    assert window_at(Span.MONTH, late, zone_of("UTC")).name == "M2026-11"
    assert window_at(Span.MONTH, late, zone_of("Asia/Kathmandu")).name == "M2026-12"
    assert window_at(Span.MONTH, at("2026-12-01T02:00"), zone_of("America/New_York")).name == "M2026-11"


def test_what_is_left_never_leaves_its_bounds() -> None:
    window = window_at(Span.DAY, at("2026-11-22T12:00"), UTC)
    assert (window.elapsed(window.start - 9), window.elapsed(window.end + 9)) == (0, 1)
    assert (window.left(window.start - 9), window.left(window.end + 9)) == (86_400, 0)
    assert window.elapsed(at("2026-11-22T12:00")) == 0.5


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "EST5EDT/x", "utc plus one"])
def test_what_is_no_zone_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match="use an IANA name such as UTC or America/New_York"):
        zone_of(name)
