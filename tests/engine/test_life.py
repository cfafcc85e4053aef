"""A stack's whole life under the real engine, in an emulated AWS that refuses something and rolls something back."""

from concurrent.futures import Future

import pytest

from preflight.record import record
from tests.engine.life import DRIFT
from tests.engine.lived import LAST_WORDS, REASON, REFUSED, STACK, Lived

pytestmark = [pytest.mark.engine, pytest.mark.process]


@pytest.fixture(scope="module")
def lived(living: "Future[Lived]") -> Lived:
    """The stack's life, once for all promises below."""
    return living.result()


def test_a_resource_that_aws_refuses_fails_the_up_with_the_reason(lived: Lived) -> None:
    assert lived.refused.status != 0
    assert REFUSED in lived.refused.text


def test_an_interrupted_up_ends_unfinished_and_says_so(lived: Lived) -> None:
    assert lived.interrupted.status != 0
    assert lived.interrupted.counts["create"] < len(lived.made)


def test_the_next_up_makes_what_was_refused_and_what_was_interrupted_and_nothing_twice(lived: Lived) -> None:
    assert lived.up.status == 0, lived.up.text
    expected = {item.urn: item.type for item in record(STACK).resources if not item.type.startswith("prodkit:")}
    assert lived.made == expected


def test_a_second_preview_and_a_refresh_find_nothing_to_do(lived: Lived) -> None:
    assert (lived.again.status, lived.again.drift) == (0, {})
    assert (lived.refresh.status, lived.refresh.drift) == (0, {})


def test_a_deployment_that_ecs_rolled_back_fails_the_up_with_the_reason(lived: Lived) -> None:
    assert lived.failed.status != 0
    for said in ("was rolled back", REASON, LAST_WORDS, "mend the cause and deploy again"):
        assert said in lived.failed.text


def test_so_does_the_next_up_although_nothing_changed(lived: Lived) -> None:
    assert lived.failed_again.status != 0
    assert REASON in lived.failed_again.text


def test_it_succeeds_after_the_repair(lived: Lived) -> None:
    assert lived.repaired.status == 0, lived.repaired.text


def test_destroy_leaves_nothing(lived: Lived) -> None:
    assert lived.destroyed.status == 0, lived.destroyed.text
    assert lived.left == {}


def test_known_drift_stays_short_and_explained() -> None:
    assert len(DRIFT) <= 3
    assert all(DRIFT.values())
