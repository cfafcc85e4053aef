import json
from typing import Any

import pytest

from components.model_config import DeploymentStrategy, ModelConfig, ModelConfigArgs
from tests.components.recorder import Record, Recording

SCHEMA = {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "required": ["version"]}


def _config(record: Record, **changes: Any) -> Recording:
    args: dict[str, Any] = {"document": '{"version": 1}', "schema": json.dumps(SCHEMA), **changes}
    given = ModelConfigArgs(**args)  # type: ignore[typeddict-item]  # wrong ones are given on purpose
    return record(lambda: ModelConfig("models", given))


def test_a_document_is_checked_by_its_schema_before_it_is_deployed(record: Record) -> None:
    profile = _config(record).one("aws:appconfig/configurationProfile:ConfigurationProfile").inputs
    assert profile["locationUri"] == "hosted"
    assert [json.loads(v["content"]) for v in profile["validators"]] == [SCHEMA]


def test_layout_and_key_order_alone_deploy_nothing(record: Record) -> None:
    version = "aws:appconfig/hostedConfigurationVersion:HostedConfigurationVersion"
    one = _config(record, document='{"b": 1,\n "a": [1, 2]}').one(version).inputs["content"]["value"]
    other = _config(record, document='{"a":[1,2],"b":1}').one(version).inputs["content"]["value"]
    assert one == other == '{"a":[1,2],"b":1}'


@pytest.mark.parametrize(
    ("strategy", "minutes", "factor", "bake"),
    [
        (DeploymentStrategy.ALL_AT_ONCE, 0, 100, 0),
        (DeploymentStrategy.CANARY, 20, 10, 10),
        (DeploymentStrategy.LINEAR, 30, 20, 30),
    ],
)
def test_each_strategy_is_what_its_description_says(
    record: Record, strategy: DeploymentStrategy, minutes: int, factor: float, bake: int
) -> None:
    made = _config(record, strategy=strategy).one("aws:appconfig/deploymentStrategy:DeploymentStrategy").inputs
    assert (made["deploymentDurationInMinutes"], made["growthFactor"], made["finalBakeTimeInMinutes"]) == (
        minutes,
        factor,
        bake,
    )


def test_alarms_roll_a_document_back(record: Record) -> None:
    arn = "arn:aws:cloudwatch:us-east-1:123456789012:alarm:errors"
    made = _config(record, alarm_arns=[arn])
    role = made.one("aws:iam/role:Role")
    assert role.json("assumeRolePolicy")["Statement"][0]["Principal"] == {"Service": "appconfig.amazonaws.com"}
    monitors = made.one("aws:appconfig/environment:Environment").inputs["monitors"]
    assert [monitor["alarmArn"] for monitor in monitors] == [arn]
    assert _config(record).all("aws:iam/role:Role") == []


def test_a_task_may_poll_this_document_and_nothing_else(record: Record) -> None:
    policy = json.loads(_config(record).outputs("prodkit:index:ModelConfig")["read_policy"])
    (statement,) = policy["Statement"]
    assert statement["Action"] == ["appconfig:StartConfigurationSession", "appconfig:GetLatestConfiguration"]
    assert "/environment/" in statement["Resource"]
    assert "*" not in statement["Resource"]


def test_everything_sits_under_the_component(record: Record) -> None:
    assert _config(record, alarm_arns=["arn:a"]).strays("prodkit:index:ModelConfig") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"document": "version: 1"}, "ModelConfig: document is not JSON"),
        ({"document": "[]"}, "document is a JSON list; pass a JSON object"),
        ({"schema": ""}, "schema is not JSON"),
        ({"document": json.dumps({"a": "x" * 1024 * 1024})}, "AppConfig's limit"),
        ({"strategy": "canari"}, "did you mean 'canary'"),
        ({"documents": "{}"}, "did you mean 'document'"),
    ],
)
def test_bad_arguments_stop_before_anything_registers(record: Record, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(record, **changes)
