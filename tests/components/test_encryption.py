from typing import Any

import pytest

from components.encryption import Encryption, EncryptionArgs, key_policy
from tests.components.recorder import Record, untagged

TYPE = "prodkit:index:Encryption"
KEY = "aws:kms/key:Key"
OWNER = {"account_id": "123456789012", "region": "us-east-1", "partition": "aws"}
USES: list[list[str]] = [[], ["logs"], ["messages"], ["logs", "messages"]]


def sids(policy: dict[str, Any]) -> list[str]:
    return [statement["Sid"] for statement in policy["Statement"]]


def by_sid(uses: list[str], sid: str) -> dict[str, Any]:
    (found,) = [s for s in key_policy(uses, **OWNER)["Statement"] if s["Sid"] == sid]
    return dict(found)


def test_one_key_serves_every_class(record: Record) -> None:
    recording = record(lambda: Encryption("keys", {"separate_keys": False}))
    key = recording.one(KEY)
    assert key.inputs["enableKeyRotation"] is True
    assert key.inputs["deletionWindowInDays"] == 30
    assert sids(key.json("policy")) == [
        "AccountDecidesByIam",
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
        "keys-data": ["AccountDecidesByIam"],
        "keys-logs": ["AccountDecidesByIam", "LogGroupsOfThisAccount"],
        "keys-messages": [
            "AccountDecidesByIam",
            "AlarmsPublish",
            "BudgetsPublish",
            "CostAlertsPublish",
            "TopicsDeliverToQueues",
        ],
        "keys-secrets": ["AccountDecidesByIam"],
    }
    assert {field: arn.rpartition("/")[2] for field, arn in recording.outputs(TYPE).items()} == {
        "data_key_arn": "keys-data",
        "logs_key_arn": "keys-logs",
        "messages_key_arn": "keys-messages",
        "secrets_key_arn": "keys-secrets",
    }


@pytest.mark.parametrize("uses", USES)
def test_no_policy_locks_the_account_out(uses: list[str]) -> None:
    first = key_policy(uses, **OWNER)["Statement"][0]
    assert first["Effect"] == "Allow"
    assert first["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}
    assert first["Action"] == ["kms:*"]
    assert "Condition" not in first


@pytest.mark.parametrize("uses", USES)
def test_every_service_is_held_to_this_account(uses: list[str]) -> None:
    for statement in key_policy(uses, **OWNER)["Statement"][1:]:
        assert list(statement["Principal"]) == ["Service"]
        assert "kms:*" not in statement["Action"]
        assert "123456789012" in str(statement["Condition"])


def test_log_delivery_uses_the_key_for_log_groups_of_this_account_only() -> None:
    statement = by_sid(["logs"], "LogGroupsOfThisAccount")
    assert statement["Principal"] == {"Service": "logs.us-east-1.amazonaws.com"}
    assert statement["Condition"] == {
        "ArnLike": {"kms:EncryptionContext:aws:logs:arn": "arn:aws:logs:us-east-1:123456789012:log-group:*"}
    }


def test_budgets_publish_for_budgets_of_this_account_only() -> None:
    statement = by_sid(["messages"], "BudgetsPublish")
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
