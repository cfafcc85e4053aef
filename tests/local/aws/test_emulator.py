"""What holds for the emulated AWS as a whole: refusals, faults, the clock, reset, and what is loaded when."""

import json
import subprocess
import sys
import urllib.error
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.core.utils import get_service_model

from local.aws.registry import api
from local.aws.shapes import ShapeError, check
from tests.local.aws.rig import Rig

pytestmark = pytest.mark.process


def test_an_operation_that_aws_does_not_have_cannot_be_registered() -> None:
    with pytest.raises(Exception, match="CreatBudget"):
        api("budgets", "CreatBudget")(lambda _call: {})


@pytest.mark.parametrize("answer", [{"Budgets": {}}, {"Budget": {"BudgetName": 1}}, {"Budget": {}}])
def test_an_answer_that_does_not_fit_the_model_is_never_sent(answer: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match="budgets DescribeBudget"):
        check(get_service_model("budgets").operation_model("DescribeBudget"), answer)


def test_a_protected_balancer_is_not_deleted(rig: Rig) -> None:
    ec2, client = rig.client("ec2"), rig.client("elbv2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"us-east-1{zone}")
        for number, zone in enumerate("ab")
    ]
    ids = [one["Subnet"]["SubnetId"] for one in subnets]
    arn = client.create_load_balancer(Name="web", Subnets=ids)["LoadBalancers"][0]["LoadBalancerArn"]
    protection = [{"Key": "deletion_protection.enabled", "Value": "true"}]
    client.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=protection)
    with pytest.raises(ClientError, match="cannot be deleted because deletion protection is enabled"):
        client.delete_load_balancer(LoadBalancerArn=arn)


def test_a_call_that_is_told_to_fail_fails_as_often_as_told(rig: Rig) -> None:
    rig.admin("refuse", operation="sqs:CreateQueue", code="RequestThrottled", message="not this time", times=2)
    for _ in range(2):
        with pytest.raises(ClientError, match=r"RequestThrottled.*not this time"):
            rig.client("sqs").create_queue(QueueName="work")
    rig.client("sqs").create_queue(QueueName="work")


def test_only_what_is_answered_here_can_be_told_to_fail(rig: Rig) -> None:
    assert "cannot be made to fail" in rig.admin("refuse", operation="sqs:SendMessage", code="AccessDenied")["error"]


def test_an_unknown_order_is_answered_with_the_known_ones(rig: Rig) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        rig.admin("rest")
    assert "reset" in json.load(refused.value)["known"]


def test_reset_forgets_what_moto_keeps_and_what_is_kept_here(rig: Rig) -> None:
    rig.client("sqs").create_queue(QueueName="work")
    rig.client("appconfig").create_application(Name="models")
    rig.admin("reset")
    assert "QueueUrls" not in rig.client("sqs").list_queues()
    with pytest.raises(ClientError, match="does not exist"):
        rig.client("appconfigdata").start_configuration_session(
            ApplicationIdentifier="models", EnvironmentIdentifier="e", ConfigurationProfileIdentifier="p"
        )


def test_a_gradual_deployment_moves_with_the_clock_and_back_with_an_alarm(rig: Rig) -> None:
    client, alarms = rig.client("appconfig"), rig.client("cloudwatch")
    alarms.put_metric_alarm(
        AlarmName="errors",
        ComparisonOperator="GreaterThanThreshold",
        EvaluationPeriods=1,
        Namespace="n",
        MetricName="m",
        Period=60,
        Statistic="Sum",
        Threshold=1,
    )
    arn = alarms.describe_alarms()["MetricAlarms"][0]["AlarmArn"]
    ours = {"ApplicationId": client.create_application(Name="models")["Id"]}
    environment = {
        **ours,
        "EnvironmentId": client.create_environment(**ours, Name="e", Monitors=[{"AlarmArn": arn}])["Id"],
    }
    profile = client.create_configuration_profile(**ours, Name="p", LocationUri="hosted")["Id"]
    client.create_hosted_configuration_version(
        **ours, ConfigurationProfileId=profile, Content=b"{}", ContentType="application/json"
    )
    start = {
        **environment,
        "ConfigurationProfileId": profile,
        "ConfigurationVersion": "1",
        "DeploymentStrategyId": "AppConfig.Linear20PercentEvery6Minutes",
    }
    number = {**environment, "DeploymentNumber": client.start_deployment(**start)["DeploymentNumber"]}
    with pytest.raises(ClientError, match="already in progress"):
        client.start_deployment(**start)
    states = []
    for _ in range(5):
        now = client.get_deployment(**number)
        states.append((now["State"], now["PercentageComplete"]))
        rig.admin("clock", advance_seconds=15 * 60)
    assert states == [
        ("DEPLOYING", 20.0),
        ("DEPLOYING", 60.0),
        ("BAKING", 100.0),
        ("BAKING", 100.0),
        ("COMPLETE", 100.0),
    ]
    again = {**environment, "DeploymentNumber": client.start_deployment(**start)["DeploymentNumber"]}
    alarms.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="test")
    assert client.get_deployment(**again)["State"] == "ROLLED_BACK"
    assert client.get_environment(**environment)["State"] == "ROLLED_BACK"


def test_serving_the_app_loads_nothing_that_only_deploying_needs() -> None:
    program = "import sys, local.aws.server; print([name for name in sys.modules if 'local.aws.services.' in name])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
