import re
from typing import Any

import pytest

from components._fargate import Architecture
from components.container_service import ContainerService
from tests.components.recorder import ACCOUNT, REGION, Record, Recording

SERVICE = "aws:ecs/service:Service"
DEFINITION = "aws:ecs/taskDefinition:TaskDefinition"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
POLICY = "aws:appautoscaling/policy:Policy"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
GROUP = "aws:ec2/securityGroup:SecurityGroup"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
IMAGE = "repo@sha256:" + "a" * 64
BASE: dict[str, Any] = {
    "stack": "test",
    "service": "web",
    "vpc_id": "vpc-1",
    "subnet_ids": ["subnet-a", "subnet-b"],
    "assign_public_ip": False,
    "image": IMAGE,
    "command": ["python", "-m", "app", "web"],
    "environment": {"B": "2", "A": "1"},
    "policies": {"storage": '{"Statement": "storage"}'},
    "cpu": 512,
    "memory_mib": 1024,
    "min_tasks": 2,
    "max_tasks": 6,
    "target_in_flight_per_task": 40,
    "stop_timeout_seconds": 120,
    "target_group_arn": "arn:targets",
    "load_balancer_security_group_id": "sg-alb",
    "connections": [{"name": "cache", "security_group_id": "sg-cache", "port": 6379}],
    "tags": {"Stack": "test"},
}
WORKER: dict[str, Any] = {
    "service": "worker",
    "command": ["python", "-m", "app", "worker"],
    "target_in_flight_per_task": None,
    "target_group_arn": None,
    "load_balancer_security_group_id": None,
    "target_backlog_per_task": 20,
    "queue_name": "jobs",
    "cluster_arn": "arn:cluster",
    "cluster_name": "shared",
}


def args(**more: Any) -> Any:
    """The arguments of a web service, with `more`; None leaves one out."""
    return {key: value for key, value in {**BASE, **more}.items() if value is not None}


def recorded(record: Record, **more: Any) -> Recording:
    return record(lambda: ContainerService("web", args(**more)))


def test_a_task_runs_the_digest_with_sorted_variables(record: Record) -> None:
    made = recorded(record).one(DEFINITION)
    (container,) = made.json("containerDefinitions")
    assert container["name"] == "app"
    assert container["image"] == IMAGE
    assert container["command"] == ["python", "-m", "app", "web"]
    assert container["environment"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert container["portMappings"] == [{"containerPort": 8080, "hostPort": 8080, "protocol": "tcp"}]
    assert container["stopTimeout"] == 120
    assert "secrets" not in container


def test_a_task_is_small_arm_and_isolated_by_default(record: Record) -> None:
    made = recorded(record).one(DEFINITION).inputs
    assert (made["cpu"], made["memory"], made["family"]) == ("512", "1024", "test-web")
    assert made["runtimePlatform"] == {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}
    assert (made["networkMode"], made["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
    assert made["volumes"] == [{"name": "tmp"}]
    x86 = recorded(record, architecture=Architecture.X86_64).one(DEFINITION).inputs
    assert x86["runtimePlatform"]["cpuArchitecture"] == "X86_64"


def test_numbers_from_other_languages_are_whole(record: Record) -> None:
    made = recorded(record, cpu=512.0, memory_mib=1024.0).one(DEFINITION).inputs
    assert (made["cpu"], made["memory"]) == ("512", "1024")


def test_a_bad_deployment_rolls_back_and_a_good_one_keeps_every_task(record: Record) -> None:
    service = recorded(record).one(SERVICE)
    assert service.inputs["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert service.inputs["deploymentMinimumHealthyPercent"] == 100
    assert service.inputs["deploymentMaximumPercent"] == 200
    assert service.inputs["waitForSteadyState"] is True
    assert service.inputs["availabilityZoneRebalancing"] == "ENABLED"


def test_a_deployment_never_undoes_autoscaling(record: Record) -> None:
    service = recorded(record).one(SERVICE)
    assert service.inputs["desiredCount"] == 2
    assert service.ignore_changes == ("desiredCount",)


def test_nobody_gets_a_shell_in_a_task(record: Record) -> None:
    service = recorded(record).one(SERVICE).inputs
    assert service["enableExecuteCommand"] is False
    assert service["enableEcsManagedTags"] is True
    assert service["propagateTags"] == "SERVICE"
    assert service["platformVersion"] == "LATEST"


def test_tasks_start_after_their_permissions_and_network_rules(record: Record) -> None:
    made = recorded(record)
    needed = {r.urn for kind in (INGRESS, EGRESS, "aws:iam/rolePolicy:RolePolicy") for r in made.all(kind)}
    assert needed <= set(made.one(SERVICE).dependencies)


def test_the_web_service_stands_behind_its_balancer(record: Record) -> None:
    service = recorded(record).one(SERVICE).inputs
    assert service["loadBalancers"] == [
        {"targetGroupArn": "arn:targets", "containerName": "app", "containerPort": 8080}
    ]
    assert service["healthCheckGracePeriodSeconds"] == 60
    worker = recorded(record, **WORKER).one(SERVICE).inputs
    assert "loadBalancers" not in worker
    assert "healthCheckGracePeriodSeconds" not in worker


def test_only_the_balancer_reaches_the_tasks(record: Record) -> None:
    made = recorded(record)
    ingress = {r.name: r.inputs for r in made.all(INGRESS)}
    assert sorted(ingress) == ["web-cache-in", "web-requests-in"]
    requests = ingress["web-requests-in"]
    assert requests["securityGroupId"] == "web-group-id"
    assert (requests["referencedSecurityGroupId"], requests["fromPort"], requests["toPort"]) == ("sg-alb", 8080, 8080)
    assert not any("cidrIpv4" in rule or "cidrIpv6" in rule for rule in ingress.values())
    assert [r.name for r in recorded(record, **WORKER, connections=[]).all(INGRESS)] == []


def test_tasks_reach_https_and_what_they_are_connected_to(record: Record) -> None:
    made = recorded(record)
    egress = {r.name: r.inputs for r in made.all(EGRESS)}
    https = egress.pop("web-https-out")
    assert (https["cidrIpv4"], https["fromPort"], https["toPort"], https["ipProtocol"]) == (
        "0.0.0.0/0",
        443,
        443,
        "tcp",
    )
    cache = egress.pop("web-cache-out")
    assert (cache["securityGroupId"], cache["referencedSecurityGroupId"]) == ("web-group-id", "sg-cache")
    assert cache["fromPort"] == cache["toPort"] == 6379
    answering = made.one(INGRESS, "web-cache-in").inputs
    assert (answering["securityGroupId"], answering["referencedSecurityGroupId"]) == ("sg-cache", "web-group-id")
    balancer = egress.pop("web-requests-out")
    assert (balancer["securityGroupId"], balancer["referencedSecurityGroupId"]) == ("sg-alb", "web-group-id")
    assert egress == {}
    described = [r.inputs["description"] for r in (*made.all(EGRESS), *made.all(INGRESS), *made.all(GROUP))]
    # The characters that EC2 takes: API_CreateSecurityGroup, GroupDescription.
    assert all(re.fullmatch(r"[\w. \-:/()#,@\[\]+=&;{}!$*]{1,255}", text) for text in described)


def test_starting_a_task_and_being_one_are_two_roles_of_this_account(record: Record) -> None:
    made = recorded(record, execution_policies={"pull": '{"Statement": "pull"}'})
    definition = made.one(DEFINITION).inputs
    assert definition["taskRoleArn"].endswith("web-task")
    assert definition["executionRoleArn"].endswith("web-execution")
    for role in made.all("aws:iam/role:Role"):
        (trust,) = role.json("assumeRolePolicy")["Statement"]
        assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trust["Condition"] == {
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
            "ArnLike": {"aws:SourceArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:*"},
        }
    policies = {p.name: p for p in made.all("aws:iam/rolePolicy:RolePolicy")}
    assert sorted(policies) == ["web-execution-log", "web-execution-pull", "web-task-storage"]
    assert policies["web-task-storage"].inputs["role"] == "web-task"
    assert policies["web-task-storage"].inputs["policy"] == '{"Statement": "storage"}'
    (log,) = policies["web-execution-log"].json("policy")["Statement"]
    assert log["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert log["Resource"].endswith("web-log:log-stream:*")


def test_the_log_is_kept_as_long_as_asked_and_encrypted(record: Record) -> None:
    log = (
        recorded(record, log_retention_days=365, logs_key_arn="arn:key").one("aws:cloudwatch/logGroup:LogGroup").inputs
    )
    assert (log["retentionInDays"], log["kmsKeyId"]) == (365, "arn:key")


def test_a_new_cluster_is_observed_and_may_use_spot(record: Record) -> None:
    made = recorded(record)
    assert made.one("aws:ecs/cluster:Cluster").inputs["settings"] == [{"name": "containerInsights", "value": "enabled"}]
    capacity = made.one("aws:ecs/clusterCapacityProviders:ClusterCapacityProviders").inputs
    assert capacity["capacityProviders"] == ["FARGATE", "FARGATE_SPOT"]


def test_an_adopted_cluster_makes_none(record: Record) -> None:
    made = recorded(record, **WORKER)
    assert made.all("aws:ecs/cluster:Cluster") == []
    assert made.one(SERVICE).inputs["cluster"] == "arn:cluster"
    resource = made.one("aws:appautoscaling/target:Target").inputs["resourceId"]
    assert resource == "service/shared/web-service"


@pytest.mark.parametrize(
    ("percent", "strategy"),
    [
        (0, [("FARGATE", 1, 0)]),
        (30, [("FARGATE", 70, 1), ("FARGATE_SPOT", 30, 0)]),
        (100, [("FARGATE_SPOT", 1, 0)]),
    ],
)
def test_spot_takes_its_share(record: Record, percent: int, strategy: list[tuple[str, int, int]]) -> None:
    service = recorded(record, spot_percent=percent).one(SERVICE).inputs
    # A change of the share deploys the service again instead of replacing it.
    assert service["forceNewDeployment"] is True
    made = [(s["capacityProvider"], s["weight"], s["base"]) for s in service["capacityProviderStrategies"]]
    assert made == strategy
    assert "launchType" not in service


def test_the_web_service_follows_the_requests_in_flight(record: Record) -> None:
    made = recorded(record)
    target = made.one("aws:appautoscaling/target:Target").inputs
    assert (target["minCapacity"], target["maxCapacity"]) == (2, 6)
    busy = made.one(ALARM, "web-busy").inputs
    assert (busy["namespace"], busy["metricName"], busy["statistic"]) == ("Prodkit", "InFlightRequests", "Average")
    assert busy["dimensions"] == {"Stack": "test", "Service": "web"}
    assert (busy["period"], busy["evaluationPeriods"], busy["threshold"]) == (10, 3, 40)
    assert busy["treatMissingData"] == "notBreaching"
    assert busy["alarmActions"] == [f"arn:aws:appautoscaling:{REGION}:{ACCOUNT}:policy/web-grow"]
    quiet = made.one(ALARM, "web-quiet").inputs
    assert (quiet["period"], quiet["evaluationPeriods"], quiet["threshold"]) == (60, 10, 16)
    assert quiet["alarmActions"] == [f"arn:aws:appautoscaling:{REGION}:{ACCOUNT}:policy/web-shrink"]
    assert made.one(POLICY, "web-grow").inputs["policyType"] == "StepScaling"


def test_the_guards_never_take_a_task_away(record: Record) -> None:
    made = recorded(record)
    guards = {
        name: made.one(POLICY, name).inputs["targetTrackingScalingPolicyConfiguration"]
        for name in ("web-cpu", "web-memory")
    }
    assert {
        name: (g["predefinedMetricSpecification"]["predefinedMetricType"], g["targetValue"], g["disableScaleIn"])
        for name, g in guards.items()
    } == {
        "web-cpu": ("ECSServiceAverageCPUUtilization", 70, True),
        "web-memory": ("ECSServiceAverageMemoryUtilization", 80, True),
    }


def test_the_worker_follows_its_queue(record: Record) -> None:
    made = recorded(record, **WORKER)
    assert sorted(p.name for p in made.all(POLICY)) == ["web-backlog", "web-cpu", "web-memory"]
    assert [alarm.name for alarm in made.all(ALARM)] == ["web-rollback-errors"]
    backlog = made.one(POLICY, "web-backlog").inputs["targetTrackingScalingPolicyConfiguration"]
    assert (backlog["targetValue"], backlog["disableScaleIn"]) == (20, False)
    waiting, running, share = backlog["customizedMetricSpecification"]["metrics"]
    assert waiting["metricStat"]["metric"]["dimensions"] == [{"name": "QueueName", "value": "jobs"}]
    assert running["metricStat"]["metric"]["dimensions"] == [
        {"name": "ClusterName", "value": "shared"},
        {"name": "ServiceName", "value": "web-service"},
    ]
    assert share["returnData"] is True


def test_every_child_is_parented_and_tagged(record: Record) -> None:
    made = recorded(record)
    assert made.strays("prodkit:index:ContainerService") == []
    untagged = {r.type for r in made.resources if r.custom and r.inputs.get("tags", {}).get("Stack") != "test"}
    assert untagged == {
        POLICY,
        "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders",
        "aws:iam/rolePolicy:RolePolicy",
    }


def test_another_service_can_join(record: Record) -> None:
    outputs = recorded(record).outputs("prodkit:index:ContainerService")
    assert sorted(outputs) == [
        "cluster_arn",
        "cluster_name",
        "deployment_seconds",
        "log_group_name",
        "security_group_id",
        "service_name",
        "task_definition_arn",
        "task_role_arn",
    ]
    assert outputs["cluster_name"] == "web-cluster"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"memory_mib": 8192}, r"cpu=512 does not allow memory_mib=8192; choose 1024, 2048, 3072 or 4096\."),
        ({"cpu": 300}, "cpu=300 is not a Fargate size; choose 256, 512"),
        ({"min_tasks": 0}, "min_tasks=0 is not allowed; choose 1 to 1000 tasks"),
        ({"min_tasks": 7}, "min_tasks=7 is more than max_tasks=6; raise max_tasks"),
        ({"spot_percent": 101}, "spot_percent=101 is not allowed; choose 0 to 100 percent"),
        ({"stop_timeout_seconds": 121}, "stop_timeout_seconds=121 is not allowed; choose 2 to 120 seconds"),
        ({"deployment_seconds": 59}, "deployment_seconds=59 is not allowed"),
        ({"log_retention_days": 42}, "log_retention_days=42 is not allowed; choose one of 1, 3"),
        ({"port": 70_000}, "port=70000 is not allowed"),
        ({"image": "repo:latest"}, "image='repo:latest' has no digest, so two tasks could run different code"),
        ({"image": "repo@sha256:abc"}, "image='repo@sha256:abc' has no digest"),
        ({"architecture": "ARM"}, "architecture='ARM' is unknown; did you mean 'ARM64'"),
        ({"cluster_arn": "arn:cluster"}, "cluster_arn and cluster_name belong together"),
        ({"target_group_arn": None}, "target_group_arn and load_balancer_security_group_id belong together"),
        ({"queue_name": "jobs"}, "target_backlog_per_task and queue_name belong together"),
        ({"target_in_flight_per_task": None}, "target_in_flight_per_task or target_backlog_per_task decides"),
        ({"target_backlog_per_task": 5, "queue_name": "jobs"}, "target_in_flight_per_task or target_backlog_per_task"),
        ({"target_in_flight_per_task": 0}, "target_in_flight_per_task=0 is not allowed"),
        ({"connections": [BASE["connections"][0]] * 2}, "connections=.* must have a name each, once"),
        ({"connections": [{**BASE["connections"][0], "name": "requests"}]}, "connections=.* not 'requests'"),
        ({"max_task": 3}, "unknown argument 'max_task'; did you mean 'max_tasks'"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(record: Record, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^ContainerService: {message}"):
        record(lambda: ContainerService("web", args(**wrong)))


def test_a_connection_with_a_misspelt_field_is_refused(record: Record) -> None:
    wrong = [{"name": "cache", "security_group": "sg-1", "port": 6379}]
    with pytest.raises(
        ValueError, match=r"^Connection: unknown argument 'security_group'; did you mean 'security_group_id'\?"
    ):
        record(lambda: ContainerService("web", args(connections=wrong)))
