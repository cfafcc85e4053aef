"""One life of the dev stack, with what goes wrong on the way; `test_life.py` says what has to come of it."""

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from stacks import emulated
from tests.engine.life import Life, Step

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
