import fnmatch
from typing import Any

import pytest

from components.encryption import DataClass, Encryption, EncryptionArgs, key_policy
from tests.components.recorder import Record, untagged

TYPE = "prodkit:index:Encryption"
KEY = "aws:kms/key:Key"
OWNER = {"account_id": "123456789012", "region": "us-east-1", "partition": "aws"}
USES: list[list[DataClass]] = [*([one] for one in DataClass), list(DataClass)]


def sids(policy: dict[str, Any]) -> list[str]:
    return [statement["Sid"] for statement in policy["Statement"]]


def by_sid(uses: list[DataClass], sid: str) -> dict[str, Any]:
    (found,) = [s for s in key_policy(uses, **OWNER)["Statement"] if s["Sid"] == sid]
    return dict(found)


def test_one_key_serves_every_class(record: Record) -> None:
    recording = record(lambda: Encryption("keys", {"separate_keys": False}))
    key = recording.one(KEY)
    assert key.inputs["enableKeyRotation"] is True
    assert key.inputs["deletionWindowInDays"] == 30
    assert sids(key.json("policy")) == [
        "AccountAdministersByIam",
        "AccountUsesThroughServices",
        "LogGroupsOfThisAccount",
        "AlarmsPublish",
        "BudgetsPublish",
        "CostAlertsPublish",
        "TopicsDeliverToQueues",
    ]
    assert set(recording.outputs(TYPE).values()) == {"arn:aws:kms:us-east-1:123456789012:key/keys-key"}


def test_separate_keys_let_each_service_near_its_own_class_only(record: Record) -> None:
    recording = record(lambda: Encryption("keys", {"separate_keys": True}))
    assert {key.name: sids(key.json("policy")) for key in recording.all(KEY)} == {
        "keys-data": ["AccountAdministersByIam", "AccountUsesThroughServices"],
        "keys-logs": ["AccountAdministersByIam", "LogGroupsOfThisAccount"],
        "keys-messages": [
            "AccountAdministersByIam",
            "AccountUsesThroughServices",
            "AlarmsPublish",
            "BudgetsPublish",
            "CostAlertsPublish",
            "TopicsDeliverToQueues",
        ],
        "keys-secrets": ["AccountAdministersByIam", "AccountUsesThroughServices"],
    }
    assert {field: arn.rpartition("/")[2] for field, arn in recording.outputs(TYPE).items()} == {
        "data_key_arn": "keys-data",
        "logs_key_arn": "keys-logs",
        "messages_key_arn": "keys-messages",
        "secrets_key_arn": "keys-secrets",
    }


@pytest.mark.parametrize("uses", USES)
def test_no_policy_locks_the_account_out(uses: list[DataClass]) -> None:
    first = key_policy(uses, **OWNER)["Statement"][0]
    assert first["Effect"] == "Allow"
    assert first["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}
    assert "Condition" not in first
    for action in (
        "PutKeyPolicy",
        "DescribeKey",
        "GetKeyPolicy",
        "EnableKeyRotation",
        "ScheduleKeyDeletion",
        "CreateAlias",
    ):
        assert any(fnmatch.fnmatch(f"kms:{action}", allowed) for allowed in first["Action"]), action


@pytest.mark.parametrize("uses", USES)
def test_nobody_decrypts_but_through_a_service(uses: list[DataClass]) -> None:
    direct = (
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "ReEncryptFrom",
        "CreateGrant",
        "GenerateDataKeyWithoutPlaintext",
    )
    for statement in key_policy(uses, **OWNER)["Statement"]:
        allowed = {
            action for action in direct if any(fnmatch.fnmatch(f"kms:{action}", one) for one in statement["Action"])
        }
        if "AWS" in statement["Principal"]:
            assert not allowed or statement["Condition"]["StringEquals"]["kms:ViaService"], statement["Sid"]


@pytest.mark.parametrize(
    ("use", "services", "grants"),
    [
        (DataClass.DATA, ["dynamodb", "ecr", "elasticache", "s3"], True),
        (DataClass.SECRETS, ["secretsmanager"], False),
        (DataClass.MESSAGES, ["sns", "sqs"], False),
    ],
)
def test_a_key_serves_the_services_of_its_class(use: DataClass, services: list[str], grants: bool) -> None:
    statement = by_sid([use], "AccountUsesThroughServices")
    via = [f"{service}.us-east-1.amazonaws.com" for service in services]
    assert statement["Condition"] == {"StringEquals": {"kms:ViaService": via}}
    assert ("kms:CreateGrant" in statement["Action"]) is grants


@pytest.mark.parametrize("uses", USES)
def test_every_service_is_held_to_this_account(uses: list[DataClass]) -> None:
    own = [one for one in key_policy(uses, **OWNER)["Statement"] if "AWS" not in one["Principal"]]
    assert bool(own) is bool({DataClass.LOGS, DataClass.MESSAGES} & set(uses))
    for statement in own:
        assert list(statement["Principal"]) == ["Service"]
        assert "kms:*" not in statement["Action"]
        assert "123456789012" in str(statement["Condition"])


def test_log_delivery_uses_the_key_for_log_groups_of_this_account_only() -> None:
    statement = by_sid([DataClass.LOGS], "LogGroupsOfThisAccount")
    assert statement["Principal"] == {"Service": "logs.us-east-1.amazonaws.com"}
    assert statement["Condition"] == {
        "ArnLike": {"kms:EncryptionContext:aws:logs:arn": "arn:aws:logs:us-east-1:123456789012:log-group:*"}
    }


def test_budgets_publish_for_budgets_of_this_account_only() -> None:
    statement = by_sid([DataClass.MESSAGES], "BudgetsPublish")
    assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey*"]
    assert statement["Condition"] == {
        "StringEquals": {"aws:SourceAccount": "123456789012"},
        "ArnLike": {"aws:SourceArn": "arn:aws:budgets::123456789012:*"},
    }


def test_each_key_has_an_alias_that_two_stacks_do_not_fight_over(record: Record) -> None:
    recording = record(lambda: Encryption("keys", {"separate_keys": False}), outputs={KEY: {"keyId": "1234"}})
    alias = recording.one("aws:kms/alias:Alias")
    assert alias.inputs == {"namePrefix": "alias/test-keys-key-", "targetKeyId": "1234"}


def test_keys_belong_to_the_component_and_are_tagged(record: Record) -> None:
    recording = record(lambda: Encryption("keys", {"separate_keys": True, "tags": {"team": "a"}}))
    assert recording.strays(TYPE) == []
    assert untagged(recording, {"team": "a"}) == []


@pytest.mark.parametrize("days", [6, 31, 7.5])
def test_a_deletion_window_that_kms_refuses_stops_before_anything_registers(record: Record, days: int) -> None:
    args: EncryptionArgs = {"separate_keys": False, "deletion_window_days": days}
    with pytest.raises(ValueError, match=rf"Encryption: deletion_window_days={days} .*; choose 7 to 30 days"):
        record(lambda: Encryption("keys", args))
