from typing import NotRequired, TypedDict

import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components._args import between, check_known, checked, choice, named, one_of
from components.cache import CacheMode
from tests.components.recorder import Record


class ThingArgs(TypedDict):
    size_gib: int
    mode: NotRequired[str]


def test_a_misspelt_argument_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"^Thing: unknown argument 'mod'; did you mean 'mode'\?$"):
        check_known("Thing", {"size_gib": 1, "mod": "x"}, ThingArgs)


def test_an_argument_like_no_other_is_refused_with_all_names() -> None:
    with pytest.raises(ValueError, match=r"unknown argument 'zzz'; choose from mode, size_gib\.$"):
        check_known("Thing", {"size_gib": 1, "zzz": "x"}, ThingArgs)


def test_a_missing_required_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"^Thing: missing argument 'size_gib'; add it to ThingArgs\.$"):
        check_known("Thing", {"mode": "x"}, ThingArgs)


def test_complete_arguments_pass() -> None:
    check_known("Thing", {"size_gib": 1, "mode": "x"}, ThingArgs)
    check_known("Thing", {"size_gib": 1}, ThingArgs)


@given(st.integers(-100, 100))
def test_a_range_holds_for_every_number(value: int) -> None:
    problem = between(1, 10, "days")
    if 1 <= value <= 10:
        assert checked("Thing", "days", value, problem) == value
        assert checked("Thing", "days", float(value), problem) == value
    else:
        with pytest.raises(ValueError, match=rf"^Thing: days={value} is not allowed; choose 1 to 10 days\.$"):
            checked("Thing", "days", value, problem)


@pytest.mark.parametrize("value", [1.5, True, "3", None])
def test_what_is_no_whole_number_is_outside_every_range(value: object) -> None:
    with pytest.raises(ValueError, match="choose 1 to 10 days"):
        checked("Thing", "days", value, between(1, 10, "days"))  # type: ignore[arg-type]  # that is what is tested


def test_an_output_is_checked_when_it_is_known(record: Record) -> None:
    def program() -> None:
        checked("Thing", "days", pulumi.Output.from_input(11), between(1, 10, "days"))

    with pytest.raises(ValueError, match="Thing: days=11 is not allowed"):
        record(program)


def test_a_set_of_values_is_listed_in_the_refusal() -> None:
    assert checked("Thing", "days", 7, one_of([1, 7], "days")) == 7
    with pytest.raises(ValueError, match=r"days=2 is not allowed; choose one of 1, 7 days\.$"):
        checked("Thing", "days", 2, one_of([1, 7], "days"))


def test_a_choice_is_a_member_or_its_value() -> None:
    assert choice("Cache", "mode", "serverless", CacheMode) is CacheMode.SERVERLESS
    assert choice("Cache", "mode", CacheMode.REPLICATED, CacheMode) is CacheMode.REPLICATED
    with pytest.raises(ValueError, match="Cache: mode='serverles' is unknown; did you mean 'serverless'"):
        choice("Cache", "mode", "serverles", CacheMode)


def test_a_name_joins_the_tags() -> None:
    assert named(None, "a") == {"Name": "a"}
    assert named({"team": "x"}, "a") == {"team": "x", "Name": "a"}
