import json

import pytest

from components.api_key import ApiKey, ApiKeyArgs
from tests.components.recorder import Record, untagged

TYPE = "prodkit:index:ApiKey"
SECRET = "aws:secretsmanager/secret:Secret"


def test_the_secret_is_made_without_a_value(record: Record) -> None:
    recording = record(lambda: ApiKey("openai", {"key_arn": "arn:key"}))
    assert [resource.type for resource in recording.resources] == [TYPE, SECRET]
    assert recording.one(SECRET).inputs == {
        "description": "OpenAI API key; set it with `make key`",
        "kmsKeyId": "arn:key",
        "recoveryWindowInDays": 30,
    }


def test_the_outputs_name_the_secret_and_never_hold_it(record: Record) -> None:
    outputs = record(lambda: ApiKey("openai", {"key_arn": "arn:key", "secret_name": "team/openai"})).outputs(TYPE)
    assert outputs["secret_name"] == "team/openai"
    assert set(outputs) == {
        *("secret_arn", "secret_name", "read_policy"),
        *("admin_secret_arn", "admin_secret_name", "admin_policy", "rotate_policy"),
    }
    assert (outputs["admin_secret_arn"], outputs["admin_secret_name"], outputs["rotate_policy"]) == ("", "", "")


def test_the_grant_reads_this_secret_and_decrypts_nothing_else(record: Record) -> None:
    outputs = record(lambda: ApiKey("openai", {"key_arn": "arn:key"})).outputs(TYPE)
    arn = outputs["secret_arn"]
    read, decrypt = json.loads(outputs["read_policy"])["Statement"]
    assert (read["Action"], read["Resource"]) == (["secretsmanager:GetSecretValue"], arn)
    assert (decrypt["Action"], decrypt["Resource"]) == (["kms:Decrypt"], "arn:key")
    assert decrypt["Condition"] == {
        "StringEquals": {
            "kms:ViaService": "secretsmanager.us-east-1.amazonaws.com",
            "kms:EncryptionContext:SecretARN": arn,
        }
    }


@pytest.mark.parametrize("days", [0, 7, 30])
def test_a_recovery_window_that_secrets_manager_takes_is_passed_on(record: Record, days: int) -> None:
    args: ApiKeyArgs = {"key_arn": "arn:key", "recovery_window_days": days}
    assert record(lambda: ApiKey("openai", args)).one(SECRET).inputs["recoveryWindowInDays"] == days


@pytest.mark.parametrize("days", [-1, 1, 6, 31, 7.5])
def test_any_other_recovery_window_is_refused(record: Record, days: int) -> None:
    args: ApiKeyArgs = {"key_arn": "arn:key", "recovery_window_days": days}
    with pytest.raises(ValueError, match=rf"ApiKey: recovery_window_days={days} .*; choose 0, or 7 to 30 days"):
        record(lambda: ApiKey("openai", args))


def test_the_secret_belongs_to_the_component_and_is_tagged(record: Record) -> None:
    recording = record(lambda: ApiKey("openai", {"key_arn": "arn:key", "tags": {"team": "a"}}))
    assert recording.strays(TYPE) == []
    assert untagged(recording, {"team": "a"}) == []


def test_the_admin_key_has_a_secret_of_its_own_without_a_value(record: Record) -> None:
    args: ApiKeyArgs = {"key_arn": "arn:key", "secret_name": "team/openai", "admin": True}
    recording = record(lambda: ApiKey("openai", args))
    assert recording.one(SECRET, "openai-admin").inputs == {
        "description": "Key of OpenAI's Admin API, for rotation; set it with `make key ADMIN=1`",
        "kmsKeyId": "arn:key",
        "recoveryWindowInDays": 30,
    }
    outputs = recording.outputs(TYPE)
    assert outputs["admin_secret_name"] == "openai-admin"
    read, decrypt = json.loads(outputs["admin_policy"])["Statement"]
    assert (read["Action"], read["Resource"]) == (["secretsmanager:GetSecretValue"], outputs["admin_secret_arn"])
    assert decrypt["Action"] == ["kms:Decrypt"]
    assert decrypt["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"] == outputs["admin_secret_arn"]


def test_only_the_rotation_may_read_the_admin_key_and_nobody_may_change_it(record: Record) -> None:
    outputs = record(lambda: ApiKey("openai", {"key_arn": "arn:key", "admin": True})).outputs(TYPE)
    key, admin = outputs["secret_arn"], outputs["admin_secret_arn"]
    assert admin not in outputs["read_policy"]
    read, replace, use = json.loads(outputs["rotate_policy"])["Statement"]
    assert (read["Action"], read["Resource"]) == (["secretsmanager:GetSecretValue"], [key, admin])
    assert replace["Action"] == ["secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"]
    assert replace["Resource"] == key
    assert (use["Action"], use["Resource"]) == (["kms:Decrypt", "kms:GenerateDataKey"], "arn:key")
    assert use["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"] == [key, admin]
