"""A deployment that is told to fail ends as on AWS, wherever one may look."""

from typing import Any

import pytest

from tests.local.aws.rig import Rig
from tests.local.aws.scenarios_service import service_that_runs

pytestmark = pytest.mark.process

WHERE = {"cluster": "c", "service": "web"}


def service_of(rig: Rig) -> dict[str, Any]:
    """The service as it is described now."""
    found: dict[str, Any] = rig.client("ecs").describe_services(cluster="c", services=["web"])["services"][0]
    return found


def newest_of(rig: Rig) -> dict[str, Any]:
    """The newest service deployment."""
    ecs = rig.client("ecs")
    arn = ecs.list_service_deployments(**WHERE)["serviceDeployments"][0]["serviceDeploymentArn"]
    found: dict[str, Any] = ecs.describe_service_deployments(serviceDeploymentArns=[arn])["serviceDeployments"][0]
    return found


def fail(rig: Rig, made: dict[str, str], **how: Any) -> None:
    """Deploy the second task definition, which fails, and let the time pass that it takes."""
    rig.admin("ecs/fail-next-deployment", **how)
    rig.client("ecs").update_service(**WHERE, taskDefinition=made["second"])
    rig.admin("clock", advance_seconds=10)


def test_until_it_fails_the_service_is_deploying_the_new_task_definition(rig: Rig) -> None:
    made = service_that_runs(rig)
    rig.admin("ecs/fail-next-deployment")
    rig.client("ecs").update_service(**WHERE, taskDefinition=made["second"])
    service = service_of(rig)
    assert (service["taskDefinition"], service["runningCount"]) == (made["second"], 2)
    assert (service["deployments"][0]["rolloutState"], newest_of(rig)["status"]) == ("IN_PROGRESS", "IN_PROGRESS")


def test_a_failed_deployment_puts_the_task_definition_before_it_back(rig: Rig) -> None:
    made = service_that_runs(rig)
    fail(rig, made)
    service = service_of(rig)
    assert service["taskDefinition"] == made["first"]
    assert service["runningCount"] == service["desiredCount"] == 2
    [primary] = service["deployments"]
    assert (primary["rolloutState"], primary["taskDefinition"]) == ("COMPLETED", made["first"])
    assert primary["rolloutStateReason"] == (
        f"ECS deployment circuit breaker: rolling back to deploymentId {primary['id']}."
    )
    told = [event["message"] for event in service["events"]]
    assert told[:3] == [
        "(service web) has reached a steady state.",
        f"(service web) (deployment {primary['id']}) deployment completed.",
        f"(service web) rolling back to deployment {primary['id']}.",
    ]
    assert told[3].endswith("deployment failed: tasks failed to start.")


def test_the_failed_deployment_says_why_and_what_it_was_to_bring(rig: Rig) -> None:
    made = service_that_runs(rig)
    fail(rig, made, reason="tasks failed container health checks.")
    newest = newest_of(rig)
    assert newest["status"] == "ROLLBACK_SUCCESSFUL"
    assert newest["statusReason"] == "ECS deployment circuit breaker: tasks failed container health checks."
    assert newest["deploymentCircuitBreaker"]["status"] == "TRIGGERED"
    arns = [newest["targetServiceRevision"]["arn"], newest["rollback"]["serviceRevisionArn"]]
    revisions = rig.client("ecs").describe_service_revisions(serviceRevisionArns=arns)["serviceRevisions"]
    assert [one["taskDefinition"] for one in revisions] == [made["second"], made["first"]]


def test_alarms_that_fired_are_named(rig: Rig) -> None:
    watch = {"alarms": {"enable": True, "rollback": True, "alarmNames": ["errors", "latency"]}}
    made = service_that_runs(rig, deploymentConfiguration=watch)
    fail(rig, made, alarms=["errors"])
    newest = newest_of(rig)
    assert (newest["status"], newest["statusReason"]) == ("ROLLBACK_SUCCESSFUL", "ECS deployment: alarm detected.")
    assert newest["alarms"]["triggeredAlarmNames"] == ["errors"]


def test_without_rollback_the_failed_deployment_stays_and_runs_nothing(rig: Rig) -> None:
    made = service_that_runs(
        rig, deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": False}}
    )
    fail(rig, made)
    service = service_of(rig)
    [primary] = service["deployments"]
    assert (primary["rolloutState"], primary["taskDefinition"]) == ("FAILED", made["second"])
    assert (service["runningCount"], newest_of(rig)["status"]) == (0, "STOPPED")


def test_the_stopped_task_leaves_its_last_lines(rig: Rig) -> None:
    made = service_that_runs(rig)
    rig.client("logs").create_log_group(logGroupName="web")
    fail(rig, made, log=["starting", "no such variable"])
    assert newest_of(rig)["status"] == "ROLLBACK_SUCCESSFUL"
    [arn] = rig.client("ecs").list_tasks(cluster="c", serviceName="web", desiredStatus="STOPPED")["taskArns"]
    [task] = rig.client("ecs").describe_tasks(cluster="c", tasks=[arn])["tasks"]
    assert (task["taskDefinitionArn"], task["stopCode"]) == (made["second"], "EssentialContainerExited")
    stream = f"web/app/{arn.rpartition('/')[2]}"
    events = rig.client("logs").get_log_events(logGroupName="web", logStreamName=stream)["events"]
    assert [event["message"] for event in events] == ["starting", "no such variable"]


def test_a_failure_waits_for_its_service_and_happens_as_often_as_told(rig: Rig) -> None:
    made = service_that_runs(rig)
    ecs = rig.client("ecs")
    rig.admin("ecs/fail-next-deployment", service="worker")
    ecs.update_service(**WHERE, taskDefinition=made["second"])
    assert service_of(rig)["taskDefinition"] == made["second"]
    rig.admin("reset")
    made = service_that_runs(rig)
    rig.admin("ecs/fail-next-deployment", times=2)
    for ends_with in (made["first"], made["first"], made["second"]):
        ecs.update_service(**WHERE, taskDefinition=made["second"])
        rig.admin("clock", advance_seconds=10)
        assert service_of(rig)["taskDefinition"] == ends_with


def test_changing_the_count_is_no_deployment(rig: Rig) -> None:
    made = service_that_runs(rig)
    rig.client("ecs").update_service(**WHERE, desiredCount=5, taskDefinition=made["first"])
    assert len(rig.client("ecs").list_service_deployments(**WHERE)["serviceDeployments"]) == 1
    assert service_of(rig)["runningCount"] == 5
