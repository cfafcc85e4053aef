"""The key rotation stopped at each of its steps: every stop leaves a working key, and the next run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from app.jobs import rotate_key
from app.jobs.key_secret import KeySecret
from app.jobs.project_keys import VERIFY_WAITS_SECONDS, ProjectKeys
from app.jobs.rotate_key import DAY_SECONDS, RUN_SECONDS
from local.openai.organization import FIRST_PROJECT
from tests.app.jobs.conftest import DAYS, OVERLAP_SECONDS, World

pytestmark = pytest.mark.process


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
