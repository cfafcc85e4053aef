"""A stack's whole life under the real engine, in an emulated AWS that refuses something and rolls something back."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from preflight.project import Project
from preflight.record import record
from stacks import emulated
from tests.engine.life import DRIFT, Life, Step

pytestmark = [pytest.mark.engine, pytest.mark.process]

STACK = "dev"
REFUSED = "User: prodkit is not authorized to perform: ecs:CreateCluster"
REASON = "tasks failed to start."
LAST_WORDS = "KeyError: 'PRODKIT_STATE_TABLE'"
MADE_BEFORE_CTRL_C = 20


@dataclass
class Lived:
    """What each step did, in order."""

    refused: Step
    interrupted: Step
    up: Step
    made: dict[str, str]
    again: Step
    refresh: Step
    failed: Step
    failed_again: Step
    repaired: Step
    destroyed: Step
    left: dict[str, str]


def order(aws: emulated.Emulation, what: str, **body: Any) -> None:
    """Tell the emulated AWS what to do."""
    request = urllib.request.Request(f"{aws.url}/_emulator/{what}", data=json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request) as answer:
        assert "error" not in json.load(answer)


@pytest.fixture(scope="module")
def lived(pulumi: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """The stack's life, once for all promises below: it takes minutes, nearly all of them the provider's own waits."""
    aws = emulated.start(tmp_path_factory.mktemp("life") / "emulated", Project.load().name)
    try:
        yield live(Life(pulumi, STACK, aws))
    finally:
        aws.forget()


def live(life: Life) -> Lived:
    """Every step."""
    order(life.aws, "refuse", operation="ecs:CreateCluster", code="AccessDeniedException", message=REFUSED)
    refused = life.run("up", "refused")
    interrupted = life.interrupt("interrupted", made=MADE_BEFORE_CTRL_C)
    up, made = life.run("up"), life.held()
    again, refresh = life.run("preview", "again"), life.run("refresh")
    order(life.aws, "ecs/fail-next-deployment", service="web-service", reason=REASON, log=[LAST_WORDS])
    life.set(webMemoryMib=1024)
    failed, failed_again = life.run("up", "failed"), life.run("up", "failed again")
    life.set(webMemoryMib=2048)
    return Lived(
        refused,
        interrupted,
        up,
        made,
        again,
        refresh,
        failed,
        failed_again,
        repaired=life.run("up", "repaired"),
        destroyed=life.run("destroy"),
        left=life.held(),
    )


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
