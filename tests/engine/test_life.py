"""A stack's whole life under the real engine, in an emulated AWS: refused one of its resources on its way up."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from preflight.project import Project
from stacks import emulated
from tests.engine.cycle import DRIFT, Life, Step

pytestmark = [pytest.mark.engine, pytest.mark.process]

STACK = "dev"
REFUSED = b'{"operation": "budgets:CreateBudget", "code": "AccessDeniedException", "message": "not this time"}'


@dataclass
class Lived:
    """What each step did."""

    refused: Step
    repaired: Step
    again: Step
    refresh: Step
    destroy: Step
    left: str
    """What the state holds at the end."""


@pytest.fixture(scope="module")
def lived(pulumi: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """The stack's life, once for all promises below: it takes minutes, most of them the provider's own waits."""
    aws = emulated.start(tmp_path_factory.mktemp("life") / "emulated", Project.load().name)
    try:
        life = Life(pulumi, STACK, aws)
        urllib.request.urlopen(urllib.request.Request(f"{aws.url}/_emulator/refuse", data=REFUSED, method="POST"))
        yield Lived(
            refused=life.run("up", "refused"),
            repaired=life.run("up", "repaired"),
            again=life.run("preview", "again"),
            refresh=life.run("refresh"),
            destroy=life.run("destroy"),
            left=life.step("left", "stack", "export", "--stack", STACK).text,
        )
    finally:
        aws.forget()


def test_a_refused_resource_fails_the_up_with_the_reason(lived: Lived) -> None:
    assert lived.refused.status != 0
    assert "not this time" in lived.refused.text


def test_the_next_up_makes_what_is_missing(lived: Lived) -> None:
    assert lived.repaired.status == 0, lived.repaired.text
    assert set(lived.repaired.counts) <= {"create", "same", "update"}
    assert lived.repaired.counts["create"] >= 1


def test_a_second_preview_and_a_refresh_find_nothing_to_do(lived: Lived) -> None:
    assert (lived.again.status, lived.again.drift) == (0, {})
    assert (lived.refresh.status, lived.refresh.drift) == (0, {})


def test_destroy_leaves_nothing(lived: Lived) -> None:
    assert lived.destroy.status == 0, lived.destroy.text
    assert '"aws:' not in lived.left


def test_known_drift_stays_short_and_explained() -> None:
    assert len(DRIFT) <= 3
    assert all(DRIFT.values())
