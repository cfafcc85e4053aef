import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import _job_alarms, _metrics
from components._fargate import Architecture
from components.scheduled_job import ScheduledJob
from tests.components.recorder import ACCOUNT, REGION, Record, Recording, untagged

TYPE = "prodkit:index:ScheduledJob"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
SCHEDULE = "aws:scheduler/schedule:Schedule"
DEFINITION = "aws:ecs/taskDefinition:TaskDefinition"
ROLE = "aws:iam/role:Role"
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"
IMAGE = "repo@sha256:" + "a" * 64
BASE: dict[str, Any] = {
    "stack": "test",
    "job": "rotate-key",
    "cluster_arn": "arn:aws:ecs:us-east-1:123456789012:cluster/web",
    "vpc_id": "vpc-1",
    "subnet_ids": ["subnet-a", "subnet-b"],
    "assign_public_ip": False,
    "image": IMAGE,
    "command": ["python", "-m", "app", "job", "rotate-key"],
    "environment": {"B": "2", "A": "1"},
    "policies": {"rotate": '{"Statement": "rotate"}'},
    "execution_policies": {"pull": '{"Statement": "pull"}'},
    "key_arn": "arn:key",
    "topic_arn": "arn:topic",
    "watch": [{"name": "overdue", "metric": _metrics.KEY_AGE_DAYS, "over": 32, "description": "The key is old"}],
    "tags": {"Stack": "test"},
}


def recorded(record: Record, **more: Any) -> Recording:
    args: Any = {key: value for key, value in {**BASE, **more}.items() if value is not None}
    outputs = {DEFINITION: {"family": "test-rotation"}}
    return record(lambda: ScheduledJob("rotation", args), outputs=outputs)


def test_the_task_is_one_of_the_image_that_serves_nobody(record: Record) -> None:
    definition = recorded(record).one(DEFINITION)
    (container,) = definition.json("containerDefinitions")
    assert (container["image"], container["command"]) == (IMAGE, ["python", "-m", "app", "job", "rotate-key"])
    assert container["environment"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert container["portMappings"] == []
    assert "healthCheck" not in container
    assert "secrets" not in container
    assert container["readonlyRootFilesystem"] is True
    assert (definition.inputs["cpu"], definition.inputs["memory"]) == ("256", "512")
    assert definition.inputs["family"] == "test-rotation"
    x86 = recorded(record, architecture=Architecture.X86_64, cpu=512.0, memory_mib=1024.0).one(DEFINITION).inputs
    assert (x86["cpu"], x86["memory"]) == ("512", "1024")
    assert x86["runtimePlatform"]["cpuArchitecture"] == "X86_64"


def test_the_schedule_starts_this_revision_in_this_network(record: Record) -> None:
    made = recorded(record)
    schedule = made.one(SCHEDULE).inputs
    assert schedule["scheduleExpression"] == "rate(24 hours)"
    assert schedule["flexibleTimeWindow"] == {"mode": "FLEXIBLE", "maximumWindowInMinutes": 15}
    assert schedule["groupName"] == "rotation-schedules"
    target = schedule["target"]
    assert target["arn"] == BASE["cluster_arn"]
    task = target["ecsParameters"]
    assert task["taskDefinitionArn"].endswith("rotation-tasks")
    assert (task["launchType"], task["taskCount"], task["enableExecuteCommand"]) == ("FARGATE", 1, False)
    assert task["networkConfiguration"] == {
        "subnets": ["subnet-a", "subnet-b"],
        "securityGroups": ["rotation-group-id"],
        "assignPublicIp": False,
    }


def test_a_start_that_fails_is_tried_again_and_then_kept(record: Record) -> None:
    made = recorded(record)
    target = made.one(SCHEDULE).inputs["target"]
    assert target["retryPolicy"] == {"maximumRetryAttempts": 20, "maximumEventAgeInSeconds": 3600}
    assert target["deadLetterConfig"]["arn"].endswith("rotation-dead")
    queue = made.one("aws:sqs/queue:Queue").inputs
    assert (queue["kmsMasterKeyId"], queue["messageRetentionSeconds"]) == ("arn:key", 14 * 24 * 3600)
    (deny,) = made.one("aws:sqs/queuePolicy:QueuePolicy").json("policy")["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_an_hour_is_a_rate_that_the_scheduler_takes(record: Record) -> None:
    hourly = recorded(record, every_hours=1, window_minutes=5).one(SCHEDULE).inputs
    assert hourly["scheduleExpression"] == "rate(60 minutes)"


def test_only_this_schedule_group_of_this_account_may_start_it(record: Record) -> None:
    made = recorded(record)
    (trust,) = made.one(ROLE, "rotation-start").json("assumeRolePolicy")["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}
    assert trust["Condition"]["ArnLike"]["aws:SourceArn"].endswith("rotation-schedules")
    for name in ("rotation-task", "rotation-execution"):
        (trust,) = made.one(ROLE, name).json("assumeRolePolicy")["Statement"]
        assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}


def test_the_schedule_may_start_this_job_and_nothing_else(record: Record) -> None:
    made = recorded(record)
    run, tag, pass_roles, letter, key = made.one(ROLE_POLICY, "rotation-start-run").json("policy")["Statement"]
    assert run["Action"] == ["ecs:RunTask"]
    assert run["Resource"] == f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/test-rotation:*"
    assert run["Condition"] == {"ArnEquals": {"ecs:cluster": BASE["cluster_arn"]}}
    assert tag["Resource"] == "arn:aws:ecs:us-east-1:123456789012:task/web/*"
    assert tag["Condition"] == {"StringEquals": {"ecs:CreateAction": "RunTask"}}
    assert [arn.rpartition("/")[2] for arn in pass_roles["Resource"]] == ["rotation-task", "rotation-execution"]
    assert pass_roles["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    assert letter["Action"] == ["sqs:SendMessage"]
    assert letter["Resource"].endswith("rotation-dead")
    assert key["Condition"] == {"StringEquals": {"kms:ViaService": [f"sqs.{REGION}.amazonaws.com"]}}
    assert "*" not in (run["Resource"].rpartition(":")[0], letter["Resource"])


def test_the_job_has_its_own_grants_and_the_agent_others(record: Record) -> None:
    policies = {p.name: p.inputs for p in recorded(record).all(ROLE_POLICY)}
    assert sorted(policies) == [
        "rotation-execution-log",
        "rotation-execution-pull",
        "rotation-start-run",
        "rotation-task-rotate",
    ]
    assert policies["rotation-task-rotate"]["role"] == "rotation-task"


def test_nothing_starts_before_its_grants_and_its_way_out(record: Record) -> None:
    made = recorded(record)
    needed = {
        r.urn
        for kind in (ROLE_POLICY, "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule")
        for r in made.all(kind)
    }
    assert needed <= set(made.one(SCHEDULE).dependencies)


def test_nobody_reaches_the_task(record: Record) -> None:
    made = recorded(record)
    assert made.all("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule") == []
    out = made.one("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule").inputs
    assert (out["fromPort"], out["toPort"]) == (443, 443)


def test_every_alarm_tells_people(record: Record) -> None:
    alarms = {alarm.name: alarm.inputs for alarm in recorded(record).all(ALARM)}
    assert sorted(alarms) == ["rotation-dead-letters", "rotation-failed", "rotation-overdue", "rotation-silent"]
    for alarm in alarms.values():
        assert alarm["alarmActions"] == alarm["okActions"] == ["arn:topic"]
    where = {"Stack": "test", "Service": "rotate-key"}
    assert all(alarms[f"rotation-{name}"]["dimensions"] == where for name in ("silent", "failed", "overdue"))


def test_a_run_that_is_missing_is_an_alarm_and_one_in_time_is_none(record: Record) -> None:
    silent = recorded(record).one(ALARM, "rotation-silent").inputs
    assert (silent["metricName"], silent["statistic"]) == ("JobRuns", "Sum")
    assert (silent["comparisonOperator"], silent["threshold"]) == ("LessThanThreshold", 1)
    assert silent["treatMissingData"] == "breaching"
    # Every hour must be without a run, and they are more than lie between two runs put off as far as they may be.
    assert "datapointsToAlarm" not in silent
    assert (silent["period"], silent["evaluationPeriods"]) == (3600, 24 + 2 + 2)


def test_one_failed_run_is_an_alarm_until_the_next(record: Record) -> None:
    failed = recorded(record).one(ALARM, "rotation-failed").inputs
    assert (failed["metricName"], failed["threshold"], failed["comparisonOperator"]) == (
        "JobFailures",
        0,
        "GreaterThanThreshold",
    )
    assert (failed["datapointsToAlarm"], failed["treatMissingData"]) == (1, "notBreaching")
    assert failed["period"] * failed["evaluationPeriods"] >= 24 * 3600


def test_a_key_that_was_not_rotated_in_time_is_an_alarm(record: Record) -> None:
    overdue = recorded(record).one(ALARM, "rotation-overdue").inputs
    assert (overdue["metricName"], overdue["statistic"], overdue["threshold"]) == ("KeyAgeDays", "Maximum", 32)
    assert (overdue["alarmDescription"], overdue["datapointsToAlarm"]) == ("The key is old", 1)


@given(
    hours=st.integers(1, _job_alarms.LONGEST_HOURS),
    window=st.integers(1, 720),
)
def test_no_legal_schedule_is_longer_than_an_alarm_looks_back(hours: int, window: int) -> None:
    longest = hours + -(-(60 * window + 3600) // 3600)
    for alarm in _job_alarms.run_alarms("test", "job", longest):
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html, EvaluationPeriods
        assert alarm.period_seconds >= 3600
        assert alarm.period_seconds * alarm.periods <= 7 * 24 * 3600
        assert alarm.period_seconds * alarm.periods > hours * 3600 + window * 60


def test_every_child_is_parented_and_tagged(record: Record) -> None:
    made = recorded(record)
    assert made.strays(TYPE) == []
    assert untagged(made, {"Stack": "test"}) == []


def test_the_outputs_are_what_starting_it_by_hand_takes(record: Record) -> None:
    outputs = recorded(record).outputs(TYPE)
    assert set(outputs) == {
        *("task_definition_arn", "security_group_id", "schedule_name"),
        *("dead_letter_name", "log_group_name", "task_role_arn"),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every_hours": 0}, "every_hours=0 is not allowed; choose 1 to 144 hours"),
        ({"every_hours": 145}, "every_hours=145 is not allowed; choose 1 to 144 hours"),
        ({"window_minutes": 0}, "window_minutes=0 is not allowed; choose 1 to 720 minutes"),
        (
            {"every_hours": 1, "window_minutes": 60},
            "window_minutes=60 is no shorter than every_hours=1; choose 1 to 59 minutes",
        ),
        ({"image": "repo:latest"}, "image='repo:latest' has no digest"),
        ({"cpu": 300}, "cpu=300"),
        ({"log_retention_days": 8}, "log_retention_days=8 is not allowed"),
        ({"architecture": "arm"}, "architecture='arm' is unknown"),
        ({"topic": "arn"}, "unknown argument 'topic'; did you mean 'topic_arn'?"),
        ({"key_arn": None}, "missing argument 'key_arn'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(record: Record, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'ScheduledJob: {message}')}"):
        recorded(record, **wrong)


def test_a_watch_with_a_misspelt_key_is_refused(record: Record) -> None:
    with pytest.raises(ValueError, match="Watch: unknown argument 'above'"):
        recorded(record, watch=[{**BASE["watch"][0], "above": 3}])
