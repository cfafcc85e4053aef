"""Which durations defer a request, and what the refusal of others says."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.deferred.deadline import HEADER, LEAST_SECONDS, MOST_SECONDS, deadline_seconds
from app.errors import ApiError


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86_400), ("90m", 5_400), (" 3600s ", 3_600), ("1m", 60)])
def test_a_duration_is_a_whole_number_with_its_unit(text: str, seconds: int) -> None:
    assert deadline_seconds(text) == seconds


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,8}[smhd]?", fullmatch=True))
def test_whatever_is_taken_is_in_bounds(text: str) -> None:
    with contextlib.suppress(ApiError):
        assert LEAST_SECONDS <= deadline_seconds(text) <= MOST_SECONDS


@pytest.mark.parametrize("text", ["", "h", "24", "25h", "86401s", "59s", "0m", "1d", "-1h", "1.5h", "24 h", "²4h"])
def test_everything_else_is_refused_and_the_message_says_what_it_takes(text: str) -> None:
    with pytest.raises(ApiError, match="from 1m to 24h") as refused:
        deadline_seconds(text)
    assert (refused.value.status, refused.value.param) == (400, HEADER)
