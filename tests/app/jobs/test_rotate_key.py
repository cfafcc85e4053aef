"""The key rotation against the simulator's Admin API and an emulated AWS: what it does when all goes well."""

from __future__ import annotations

from dataclasses import replace

import boto3
import pytest
from botocore.stub import ANY, Stubber

from app.jobs.key_secret import KeySecret, Replacement
from app.jobs.rotate_key import DAY_SECONDS
from local.openai.organization import FIRST_PROJECT
from tests.app.conftest import REGION
from tests.app.jobs.conftest import DAYS, OVERLAP_SECONDS, World
from tests.app.replica import openai_secret

pytestmark = pytest.mark.process


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
