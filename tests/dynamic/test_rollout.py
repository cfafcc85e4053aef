"""A deployment that ECS rolled back fails with the reason, again and again until the service runs what was asked."""

import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynamic import _evidence
from dynamic._evidence import redacted
from dynamic.rollout import RolloutError, _Provider
from tests.dynamic.ecs_play import CLUSTER, REGION, EcsPlay, arn, serving

pytestmark = pytest.mark.process

Fail = Callable[..., None]
STARVED = "ECS deployment circuit breaker: tasks failed to start."


@pytest.fixture
def play() -> EcsPlay:
    return EcsPlay()


@pytest.fixture
def fail(play: EcsPlay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fail]:
    """Makes the next deployment of `web` fail, as an operator of the emulator does; the play is AWS for the test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving(play) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)

        def fail_next(**how: Any) -> None:
            body = json.dumps({"service": "web", "reason": STARVED, **how}).encode()
            with urllib.request.urlopen(f"{url}/_emulator/ecs/fail-next-deployment", body) as answer:
                assert answer.status == 200

        yield fail_next


def inputs(definition: str, **more: Any) -> dict[str, Any]:
    return {
        "cluster": CLUSTER,
        "service": "web",
        "task_definition_arn": arn("task-definition", definition),
        "log_group": "web-log",
        "log_prefix": "web/app",
        "timeout_seconds": 60.0,
        "region": REGION,
        "poll_seconds": 0.001,
        **more,
    }


class Stack:
    """What Pulumi does with the resource: inputs are stored when it succeeded, and compared at the next `up`."""

    def __init__(self) -> None:
        self.provider = _Provider()
        self.stored: dict[str, Any] | None = None

    def up(self, definition: str, **more: Any) -> str:
        """`created`, `updated` or `same`; what the provider raises fails the `up`."""
        wanted = inputs(definition, **more)
        if self.stored is None:
            self.stored = self.provider.create(wanted).outs
            return "created"
        if not self.provider.diff("id", self.stored, wanted).changes:
            return "same"
        self.stored = self.provider.update("id", self.stored, wanted).outs
        return "updated"


def test_a_deployment_that_completes_succeeds_with_progress(
    play: EcsPlay, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    play.deploy("web", "web:1")
    stack = Stack()
    assert stack.up("web:1") == "created"
    assert stack.stored is not None
    assert stack.stored["deployment"] == play.deployments[0].arn
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "web: 1 of 2 new tasks run, 10 % of requests, production traffic shift (0 s)"
    assert shown[-1].startswith("web: completed (")
    assert len(shown) == len(set(shown))


def test_a_second_up_without_a_change_waits_for_nothing(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    play.deploy("web", "web:1")
    stack.up("web:1")
    play.looked.clear()
    assert stack.up("web:1") == "same"
    assert play.looked.count("DescribeServices") == 1


def test_a_rolled_back_deployment_fails_with_everything_that_is_known(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    play.deploy("web", "web:1")
    stack.up("web:1")
    fail(exit_code=3, alarms=["web-rollback-errors-1"], log=["starting", "ImportError: no module named x"])
    play.deploy("web", "web:2")
    with pytest.raises(RolloutError) as caught:
        stack.up("web:2")
    text = str(caught.value)
    assert text.startswith("web: the deployment of web:2 was rolled back; the service runs web:1\n")
    assert f"reason: {STARVED}; alarms that fired: web-rollback-errors-1" in text
    assert "(service web) event 0" in text
    assert "task2 stopped; Essential container in task exited; container app ended with 3" in text
    assert "last lines of log web-log web/app/task2:" in text
    assert "ImportError: no module named x" in text
    assert "pulumi up --refresh" in text


def test_it_fails_again_until_the_service_runs_what_was_asked(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    play.deploy("web", "web:1")
    stack.up("web:1")
    fail()
    play.deploy("web", "web:2")
    for _ in range(3):  # nothing is deployed by these: Pulumi knows of no change to the service
        with pytest.raises(RolloutError, match="web:2 was rolled back; the service runs web:1"):
            stack.up("web:2")
    play.deploy("web", "web:3")
    assert stack.up("web:3") == "updated"
    assert stack.up("web:3") == "same"


def test_the_first_deployment_of_a_stack_fails_again_too(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    fail()
    play.deploy("web", "web:1")
    for _ in range(2):
        with pytest.raises(RolloutError, match="web:1 was rolled back"):
            stack.up("web:1")
    assert stack.stored is None


def test_the_same_version_succeeds_when_it_is_tried_again_and_works(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    play.deploy("web", "web:1")
    stack.up("web:1")
    fail()
    play.deploy("web", "web:2")
    with pytest.raises(RolloutError):
        stack.up("web:2")
    play.deploy("web", "web:2")
    assert stack.up("web:2") == "updated"


def test_a_change_of_the_service_alone_is_waited_for_and_fails_too(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    play.deploy("web", "web:1")
    stack.up("web:1")
    fail(reason="alarm")
    play.deploy("web", "web:1")
    with pytest.raises(RolloutError, match="was rolled back"):
        stack.up("web:1")
    with pytest.raises(RolloutError, match="was rolled back"):
        stack.up("web:1")


def test_a_service_that_somebody_put_back_by_hand_is_found_out(play: EcsPlay, fail: Fail) -> None:
    stack = Stack()
    play.deploy("web", "web:2")
    stack.up("web:2")
    play.deploy("web", "web:1")
    with pytest.raises(RolloutError, match="web:2 is not what the service deploys or runs; the service runs web:1"):
        stack.up("web:2")


def test_without_the_right_to_list_deployments_the_service_itself_tells(play: EcsPlay, fail: Fail) -> None:
    play.lists_deployments = False
    stack = Stack()
    play.deploy("web", "web:1")
    assert stack.up("web:1") == "created"
    fail()
    play.deploy("web", "web:2")
    for _ in range(2):
        with pytest.raises(RolloutError, match=f"web:2 failed; the service runs web:1\n  reason: {STARVED}"):
            stack.up("web:2")


def test_a_deployment_that_takes_too_long_is_given_up_with_the_way_to_end_it(play: EcsPlay, fail: Fail) -> None:
    wanted = play.deploy("web", "web:1")
    with pytest.raises(RolloutError) as caught:
        Stack().up("web:1", timeout_seconds=-1.0)
    assert "web:1 did not end within" in str(caught.value)
    assert "1 of 2 new tasks run" in str(caught.value)
    stop = "aws ecs stop-service-deployment --stop-type ROLLBACK --service-deployment-arn"
    assert f"{stop} {play.deployments[0].arn}" in str(caught.value)
    assert play.runs("web") == wanted


def test_a_service_that_is_gone_is_said_so(play: EcsPlay, fail: Fail) -> None:
    with pytest.raises(RolloutError, match="cluster prodkit has no active service web; run: pulumi up --refresh"):
        Stack().up("web:1")


def test_a_preview_asks_nothing_while_the_task_definition_is_not_known(play: EcsPlay, fail: Fail) -> None:
    unknown = {**inputs("web:1"), "task_definition_arn": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}
    assert _Provider().diff("id", inputs("web:1"), unknown).changes
    assert play.looked == []


def test_no_key_is_shown_and_no_line_is_endless(play: EcsPlay, fail: Fail) -> None:
    openai, ours = f"sk-{secrets.token_urlsafe(30)}", f"prodkit_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
    fail(reason=f"bad key {openai}", log=[f"Authorization: Bearer {ours}", *["x" * 5000] * 50, f"key={openai} {ours}"])
    play.deploy("web", "web:1")
    with pytest.raises(RolloutError) as caught:
        Stack().up("web:1")
    text = str(caught.value)
    assert openai not in text
    assert ours not in text
    assert "bad key [redacted]" in text
    assert "key=[redacted] [redacted]" in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= _evidence.LINE_CHARACTERS + 10
    assert len(lines) <= _evidence.LOG_LINES + _evidence.EVENTS + _evidence.TASKS + 10


@pytest.mark.parametrize(
    "text",
    ["task-definition/web:1", "sk-short", "arn:aws:ecs:us-east-1:123456789012:task-definition/prodkit-dev-web:4"],
)
def test_what_is_no_key_stays_readable(text: str) -> None:
    assert redacted(text) == text
