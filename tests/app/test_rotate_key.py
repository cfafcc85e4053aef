"""The key rotation against the simulator's Admin API and an emulated AWS: every stop leaves a working key."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import openai
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.stub import ANY, Stubber

from app.jobs import rotate_key
from app.jobs.key_secret import KeySecret, Replacement
from app.jobs.project_keys import VERIFY_WAITS_SECONDS, ProjectKeys
from app.jobs.rotate_key import CACHED_SECONDS, DAY_SECONDS, PROMOTION_SECONDS, RUN_SECONDS
from app.jobs.settings import RotationSettings
from local.openai.organization import FIRST_PROJECT
from local.openai.server import Running, running
from tests.app.conftest import REGION, CloudParts
from tests.app.replica import openai_secret

pytestmark = pytest.mark.process
DAYS = 30
STREAM_SECONDS = 60
OVERLAP_SECONDS = PROMOTION_SECONDS + CACHED_SECONDS + STREAM_SECONDS


@dataclass
class World:
    """One stack's secrets, its service account, a clock that tests move, and what runs of the job wrote."""

    cloud: CloudParts
    simulator: Running
    settings: RotationSettings
    admin: openai.OpenAI
    account: str
    first_key: str
    """Value of the key that an operator made and set."""
    moved: float = 0.0
    waits: list[float] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def clock(self) -> float:
        return time.time() + self.moved

    def run(self, *, now: bool = False) -> int:
        """One run of the job, as the command does it."""
        return rotate_key.run(
            self.settings,
            now=now,
            clock=self.clock,
            sleep=self.waits.append,
            write=lambda line: self.metrics.append(json.loads(line)),
        )

    @property
    def secret(self) -> Any:
        return self.cloud.client("secretsmanager")

    def held(self) -> dict[str, Any]:
        """What the rotation wrote into the secret."""
        text = self.secret.get_secret_value(SecretId=self.settings.openai_secret_arn)["SecretString"]
        state: dict[str, Any] = json.loads(text)
        return state

    def value_in_force(self) -> str:
        text: str = self.secret.get_secret_value(SecretId=self.settings.openai_secret_arn)["SecretString"]
        return str(json.loads(text)["api_key"]) if text.startswith("{") else text

    def key_ids(self) -> list[str]:
        """Ids of the account's keys at OpenAI, oldest first."""
        return [key.id for key in self.admin.admin.organization.projects.api_keys.list(FIRST_PROJECT, limit=100)]

    def works(self, value: str) -> bool:
        with openai.OpenAI(api_key=value, base_url=self.simulator.base_url, max_retries=0) as client:
            try:
                client.models.list()
            except openai.AuthenticationError:
                return False
            return True

    def later(self, seconds: float) -> None:
        self.moved += seconds

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last run."""
        return self.metrics[-1]


@pytest.fixture(scope="module")
def simulated() -> Iterator[Running]:
    with running() as simulator:
        yield simulator


@pytest.fixture
def world(cloud: CloudParts, simulated: Running) -> Iterator[World]:
    """A stack whose operator made a service account, and set its first key and the admin key."""
    simulated.reset()
    admin_key = f"sk-admin-{secrets.token_urlsafe(24)}"
    with openai.OpenAI(admin_api_key=admin_key, base_url=simulated.base_url, max_retries=0) as admin:
        account = admin.admin.organization.projects.service_accounts.create(FIRST_PROJECT, name="app")
        assert account.api_key is not None
        settings = RotationSettings(
            stack="test",
            service="rotate-key",
            log_level="info",
            openai_base_url=simulated.base_url,
            openai_secret_arn=openai_secret(cloud, account.api_key.value),
            openai_admin_secret_arn=openai_secret(cloud, admin_key),
            openai_project_id=FIRST_PROJECT,
            openai_service_account_id=account.id,
            rotation_days=DAYS,
            max_stream_seconds=STREAM_SECONDS,
            aws_region=REGION,
            aws_endpoint_url=cloud.url,
        )
        yield World(cloud, simulated, settings, admin, account.id, account.api_key.value)


def test_a_young_key_is_left_alone(world: World) -> None:
    world.later(DAYS * DAY_SECONDS - 60)
    assert world.run() == 0
    assert world.value_in_force() == world.first_key
    assert len(world.key_ids()) == 1
    assert world.last["JobRuns"] == 1
    assert world.last["JobFailures"] == 0
    assert world.last["KeyAgeDays"] == pytest.approx(DAYS, abs=0.01)


def test_an_old_key_is_replaced_and_goes_on_working(world: World) -> None:
    world.later(DAYS * DAY_SECONDS + 60)
    assert world.run() == 0
    value = world.value_in_force()
    assert value != world.first_key
    assert world.works(value)
    assert world.works(world.first_key)
    state = world.held()
    assert state["key_id"] == world.key_ids()[-1]
    assert state["previous_key_id"] is None  # nobody told its id: the operator set the key itself
    assert state["previous_retire_after"] == pytest.approx(world.clock() + OVERLAP_SECONDS, abs=30)


def test_the_secret_remembers_what_it_held_before(world: World) -> None:
    assert world.run(now=True) == 0
    previous = world.secret.get_secret_value(SecretId=world.settings.openai_secret_arn, VersionStage="AWSPREVIOUS")
    assert previous["SecretString"] == world.first_key


def test_a_replaced_key_is_revoked_when_no_request_can_use_it_any_more(world: World) -> None:
    assert world.run(now=True) == 0
    first = world.held()
    world.later(DAYS * DAY_SECONDS + 60)
    assert world.run() == 0
    second = world.held()
    assert second["previous_key_id"] == first["key_id"]
    world.later(OVERLAP_SECONDS - 60)
    assert world.run() == 0
    assert world.works(first["api_key"])
    world.later(DAY_SECONDS)
    assert world.run() == 0
    assert not world.works(first["api_key"])
    assert world.works(second["api_key"])
    assert world.held() == second


def test_keys_that_are_not_the_rotation_s_are_never_revoked(world: World) -> None:
    projects = world.admin.admin.organization.projects
    other = projects.service_accounts.api_keys.create(world.account, project_id=FIRST_PROJECT, name="somebody's")
    stranger = projects.service_accounts.create(FIRST_PROJECT, name="another stack")
    assert stranger.api_key is not None
    world.run(now=True)
    world.later(2 * DAY_SECONDS)
    assert world.run(now=True) == 0
    world.later(2 * DAY_SECONDS)
    assert world.run() == 0
    for value in (world.first_key, other.value, stranger.api_key.value):
        assert world.works(value)


def test_two_stacks_of_one_service_account_leave_each_other_s_keys_alone(world: World) -> None:
    assert world.run(now=True) == 0
    mine = world.value_in_force()
    twin = replace(
        world, settings=replace(world.settings, openai_secret_arn=openai_secret(world.cloud, world.first_key))
    )
    twin.later(DAY_SECONDS)
    assert twin.run(now=True) == 0
    twin.later(DAY_SECONDS)
    assert twin.run() == 0
    assert world.works(mine)


def test_without_a_key_there_is_nothing_to_rotate(world: World) -> None:
    empty = replace(world, settings=replace(world.settings, openai_secret_arn=openai_secret(world.cloud, None)))
    assert empty.run(now=True) == 0
    assert len(world.key_ids()) == 1
    assert "KeyAgeDays" not in empty.last


def test_a_missing_admin_key_is_a_failure_before_the_key_is_old(world: World, caplog: pytest.LogCaptureFixture) -> None:
    unset = replace(world, settings=replace(world.settings, openai_admin_secret_arn=openai_secret(world.cloud, None)))
    assert unset.run() == 1
    assert "make key STACK=test ADMIN=1" in caplog.text
    assert unset.last["JobFailures"] == 1
    assert unset.last["KeyAgeDays"] >= 0


def test_no_key_is_made_when_openai_makes_none(world: World) -> None:
    world.simulator.fault("status", status=500, match={"method": "POST"})
    assert world.run(now=True) == 1
    assert (world.value_in_force(), len(world.key_ids())) == (world.first_key, 1)
    assert (world.last["JobRuns"], world.last["JobFailures"]) == (1, 1)


def test_a_key_whose_answer_was_lost_is_revoked_by_a_later_run(world: World) -> None:
    assert world.run(now=True) == 0
    rotation = rotate_key.Rotation(
        world.settings, KeySecret(world.secret, world.settings.openai_secret_arn), lambda: pytest.fail("not opened")
    )
    world.admin.admin.organization.projects.service_accounts.api_keys.create(
        world.account, project_id=FIRST_PROJECT, name=f"{rotation._prefix}1"
    )
    orphan = world.key_ids()[-1]
    world.later(RUN_SECONDS + OVERLAP_SECONDS)
    assert world.run() == 0
    assert orphan not in world.key_ids()
    assert world.held()["key_id"] in world.key_ids()


def test_a_new_key_that_needs_a_moment_is_waited_for(world: World) -> None:
    world.simulator.fault("status", code="invalid_api_key", match={"path": "/v1/models"}, times=3)
    assert world.run(now=True) == 0
    assert world.waits == list(VERIFY_WAITS_SECONDS[:3])
    assert world.works(world.value_in_force())


def test_a_new_key_that_never_works_is_revoked_and_the_old_one_stays(world: World) -> None:
    world.simulator.fault("status", code="invalid_api_key", match={"path": "/v1/models"}, times=None)
    assert world.run(now=True) == 1
    assert world.waits == list(VERIFY_WAITS_SECONDS)
    assert world.value_in_force() == world.first_key
    assert len(world.key_ids()) == 1


def test_an_unused_key_that_cannot_be_revoked_is_revoked_later(world: World) -> None:
    assert world.run(now=True) == 0
    in_force = world.held()
    world.simulator.fault("status", code="invalid_api_key", match={"path": "/v1/models"}, times=None)
    world.simulator.fault("status", status=500, match={"method": "DELETE"}, times=None)
    assert world.run(now=True) == 1
    assert len(world.key_ids()) == 3
    world.simulator.admin("DELETE", "/faults")
    world.later(DAY_SECONDS)
    assert world.run() == 0
    assert len(world.key_ids()) == 2
    assert world.held() == in_force
    assert world.works(in_force["api_key"])


def refusing(world: World, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, *, after: bool) -> None:
    """Makes the next call of one of the secret's methods fail, before or after it did its work."""
    real: Callable[..., Any] = getattr(KeySecret, method)

    def fails(self: KeySecret, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(KeySecret, method, real)
        if after:
            real(self, *args, **kwargs)
        raise error

    monkeypatch.setattr(KeySecret, method, fails)


def denied() -> ClientError:
    return refusal("AccessDeniedException", 400)


def refusal(code: str, status: int) -> ClientError:
    """An error that Secrets Manager answers with."""
    metadata: Any = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}, "Operation")


def lost() -> ReadTimeoutError:
    return ReadTimeoutError(endpoint_url="https://secretsmanager.test")


@pytest.mark.parametrize("error", [denied(), lost()], ids=["denied", "lost"])
@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
def test_a_key_that_cannot_be_staged_is_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, after: bool
) -> None:
    refusing(world, monkeypatch, "stage", error, after=after)
    assert world.run(now=True) == 1
    assert world.value_in_force() == world.first_key
    assert len(world.key_ids()) == 1
    assert world.run(now=True) == 0


def test_a_key_that_is_certainly_not_promoted_is_revoked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(world, monkeypatch, "make_current", denied(), after=False)
    assert world.run(now=True) == 1
    assert world.value_in_force() == world.first_key
    assert len(world.key_ids()) == 1
    assert world.run(now=True) == 0


UNCLEAR = {
    "lost": lost(),
    "late": refusal("InvalidParameterException", 400),
    "broken": refusal("InternalServiceError", 500),
}


@pytest.mark.parametrize("error", UNCLEAR.values(), ids=UNCLEAR)
def test_a_key_that_may_have_been_promoted_is_not_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    refusing(world, monkeypatch, "make_current", error, after=False)
    assert world.run(now=True) == 1
    assert len(world.key_ids()) == 2
    world.later(DAYS * DAY_SECONDS + 60)
    assert world.run() == 0
    world.later(DAY_SECONDS)
    assert world.run() == 0
    assert len(world.key_ids()) == 2  # the first, which is the operator's, and the one in force


@pytest.mark.parametrize("error", UNCLEAR.values(), ids=UNCLEAR)
def test_a_promotion_whose_answer_was_lost_is_one(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    refusing(world, monkeypatch, "make_current", error, after=True)
    assert world.run(now=True) == 0
    assert world.held()["key_id"] == world.key_ids()[-1]
    assert world.works(world.value_in_force())


def test_what_cannot_be_read_after_the_promotion_is_left_to_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = KeySecret.make_current

    def then_unreadable(self: KeySecret, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(KeySecret, "make_current", real)
        real(self, *args, **kwargs)
        refusing(world, monkeypatch, "read", lost(), after=False)
        raise lost()

    monkeypatch.setattr(KeySecret, "make_current", then_unreadable)
    assert world.run(now=True) == 1
    assert world.works(world.value_in_force())
    assert world.held()["key_id"] == world.key_ids()[-1]
    world.later(DAY_SECONDS)
    assert world.run() == 0
    assert world.works(world.value_in_force())


@pytest.mark.parametrize("step", ["verify", "stage", "make_current"])
def test_a_run_that_was_killed_is_made_good_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    assert world.run(now=True) == 0
    world.later(2 * DAY_SECONDS)
    owner: Any = ProjectKeys if step == "verify" else KeySecret
    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):

        def killed(*_: Any, **__: Any) -> None:
            raise SystemExit(137)

        patch.setattr(owner, step, killed)
        world.run(now=True)
    assert world.works(world.value_in_force())
    stranded = world.key_ids()[-1]
    assert stranded != world.held()["key_id"]
    world.later(DAY_SECONDS)
    assert world.run(now=True) == 0
    world.later(DAY_SECONDS)
    assert world.run() == 0
    assert stranded not in world.key_ids()
    assert world.key_ids()[1:] == [world.held()["key_id"]]
    assert world.works(world.value_in_force())


def test_a_revocation_that_fails_is_tried_again_by_the_next_run(world: World) -> None:
    assert world.run(now=True) == 0
    first = world.held()
    world.later(DAY_SECONDS)
    assert world.run(now=True) == 0
    world.later(DAY_SECONDS)
    world.simulator.fault("status", status=503, match={"method": "DELETE"}, times=3)
    world.simulator.fault(
        "status", status=503, match={"method": "DELETE"}, times=None, headers={"x-should-retry": "false"}
    )
    assert world.run() == 1
    assert world.last["JobFailures"] == 1
    assert world.works(first["api_key"])
    assert world.works(world.value_in_force())
    world.simulator.admin("DELETE", "/faults")
    assert world.run() == 0
    assert not world.works(first["api_key"])


def test_nothing_is_revoked_while_the_key_in_force_does_not_work(world: World) -> None:
    assert world.run(now=True) == 0
    first = world.held()
    world.later(DAY_SECONDS)
    assert world.run(now=True) == 0
    world.later(DAY_SECONDS)
    world.simulator.fault("status", code="invalid_api_key", match={"path": "/v1/models"}, times=None)
    assert world.run() == 1
    world.simulator.admin("DELETE", "/faults")
    assert world.works(first["api_key"])


def test_nothing_is_revoked_while_an_operator_s_key_is_in_force(world: World) -> None:
    assert world.run(now=True) == 0
    rotated = world.value_in_force()
    # A way back: the operator sets the rotation's own key by hand, so nothing tells which of the listed ones it is.
    world.secret.put_secret_value(SecretId=world.settings.openai_secret_arn, SecretString=rotated)
    world.later(DAY_SECONDS)
    assert world.run() == 0
    assert world.works(rotated)


def test_of_two_runs_at_once_one_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = KeySecret.make_current
    outcomes: list[int] = []

    def after_another_run(self: KeySecret, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(KeySecret, "make_current", real)
        outcomes.append(world.run(now=True))
        winner.append(world.held())
        real(self, *args, **kwargs)

    winner: list[dict[str, Any]] = []
    monkeypatch.setattr(KeySecret, "make_current", after_another_run)
    outcomes.append(world.run(now=True))
    assert outcomes == [0, 0]
    assert [world.held()] == winner
    assert world.works(world.value_in_force())
    assert len(world.key_ids()) == 2  # the operator's and the winner's


def test_a_key_that_an_operator_sets_during_a_run_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ProjectKeys.verify

    def meanwhile(self: ProjectKeys, value: str) -> None:
        real(self, value)
        world.secret.put_secret_value(SecretId=world.settings.openai_secret_arn, SecretString=f"{world.first_key}")

    monkeypatch.setattr(ProjectKeys, "verify", meanwhile)
    assert world.run(now=True) == 0
    assert world.value_in_force() == world.first_key
    assert len(world.key_ids()) == 1


def test_whatever_goes_wrong_the_alarms_hear_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: KeySecret) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(KeySecret, "read", broken)
    assert world.run() == 1
    assert (world.last["JobRuns"], world.last["JobFailures"]) == (1, 1)
    assert "KeyAgeDays" not in world.last


def test_no_line_holds_a_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world.run(now=True)
    world.later(DAY_SECONDS)
    world.run(now=True)
    values = {world.first_key, world.value_in_force()}
    assert caplog.records
    written = [f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name.startswith("app")]
    assert not any(value in line for value in values for line in written)


OLD_VERSION = "00000000-0000-4000-8000-000000000000"


def test_the_pending_version_is_one_that_nobody_reads() -> None:
    client = boto3.client("secretsmanager", region_name=REGION)
    with Stubber(client) as stub:
        stub.add_response(
            "put_secret_value",
            {"ARN": "arn:aws:secretsmanager:us-east-1:123456789012:secret:x"},
            {"SecretId": "arn", "ClientRequestToken": ANY, "SecretString": ANY, "VersionStages": ["AWSPENDING"]},
        )
        stub.add_response(
            "update_secret_version_stage",
            {},
            {
                "SecretId": "arn",
                "VersionStage": "AWSCURRENT",
                "MoveToVersionId": ANY,
                "RemoveFromVersionId": OLD_VERSION,
            },
        )
        secret = KeySecret(client, "arn")
        staged = secret.stage(Replacement("value", "key_1", 1.0, None, 2.0))
        secret.make_current(staged, replaces=OLD_VERSION)
        stub.assert_no_pending_responses()
