"""How a new version takes over: what is registered is what ECS takes, and no deployment is given up while ECS waits."""

import json
import math
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from components import _rollout
from components._rollout import Rollout
from components.container_service import ContainerService
from components.load_balancer import LoadBalancer
from tests.components.recorder import ACCOUNT, REGION, Record, Recording
from tests.components.test_container_service import ALARM, SERVICE, WORKER, args
from tests.components.test_load_balancer import COMPUTED, LISTENER, TARGETS
from tests.components.test_load_balancer import args as balancer_args

ECS = botocore.session.get_session().get_service_model("ecs")
SHIFT: dict[str, Any] = {"alternate_target_group_arn": "arn:other", "listener_rule_arn": "arn:rule"}
SEEN: dict[str, Any] = {
    "load_balancer_suffix": "app/web/1",
    "target_group_suffixes": ["targetgroup/a", "targetgroup/b"],
}
PERCENT, STEP, BAKE = st.integers(3, 50), st.integers(0, 1440), st.integers(0, 1440)


def recorded(record: Record, **more: Any) -> Recording:
    return record(lambda: ContainerService("web", args(**{**SHIFT, **SEEN, **more})))


def sent_to_ecs(service: dict[str, Any]) -> dict[str, Any]:
    """The recorded inputs of a service as the provider sends them: nested where ECS nests them, minutes as numbers."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return int(value) if isinstance(value, str) and value.isdigit() else value

    return {
        "serviceName": "web",
        "deploymentConfiguration": {
            **whole(service["deploymentConfiguration"]),
            "deploymentCircuitBreaker": service["deploymentCircuitBreaker"],
            "alarms": service["alarms"],
            "minimumHealthyPercent": int(service["deploymentMinimumHealthyPercent"]),
            "maximumPercent": int(service["deploymentMaximumPercent"]),
        },
        "loadBalancers": [{**one, "containerPort": int(one["containerPort"])} for one in service["loadBalancers"]],
    }


def problems(request: dict[str, Any]) -> str:
    """What botocore's model of CreateService has against a request."""
    shape = ECS.operation_model("CreateService").input_shape
    assert shape is not None
    report: str = ParamValidator().validate(request, shape).generate_report()
    return report


@pytest.mark.parametrize("rollout", list(Rollout))
def test_ecs_takes_every_strategy(record: Record, rollout: Rollout) -> None:
    sent = sent_to_ecs(recorded(record, rollout=rollout, rollout_percent=20).one(SERVICE).inputs)
    assert problems(sent) == ""
    assert sent["deploymentConfiguration"]["strategy"] in ECS.shape_for("DeploymentStrategy").enum  # type: ignore[attr-defined]


def test_the_check_against_the_model_can_fail(record: Record) -> None:
    sent = sent_to_ecs(recorded(record, rollout="canary").one(SERVICE).inputs)
    sent["deploymentConfiguration"]["canaryConfiguration"]["canaryPercentage"] = 10
    sent["loadBalancers"][0]["advancedConfiguration"]["roleArn"] = 1
    assert "canaryPercentage" in problems(sent)
    assert "roleArn" in problems(sent)


def test_a_canary_is_watched_with_a_share_then_with_all_requests(record: Record) -> None:
    made = recorded(record, rollout="canary", rollout_percent=5, rollout_step_minutes=10, bake_minutes=15).one(SERVICE)
    assert made.inputs["deploymentConfiguration"] == {
        "strategy": "CANARY",
        "bakeTimeInMinutes": "15",
        "canaryConfiguration": {"canaryPercent": 5, "canaryBakeTimeInMinutes": "10"},
    }


def test_linear_steps_are_equal(record: Record) -> None:
    made = recorded(record, rollout="linear", rollout_percent=25, rollout_step_minutes=3).one(SERVICE)
    assert made.inputs["deploymentConfiguration"] == {
        "strategy": "LINEAR",
        "bakeTimeInMinutes": "5",
        "linearConfiguration": {"stepPercent": 25, "stepBakeTimeInMinutes": "3"},
    }


def test_requests_are_shifted_by_a_role_that_may_do_only_that(record: Record) -> None:
    made = recorded(record, rollout="canary")
    (target,) = made.one(SERVICE).inputs["loadBalancers"]
    assert target["advancedConfiguration"] == {
        "alternateTargetGroupArn": "arn:other",
        "productionListenerRule": "arn:rule",
        "roleArn": f"arn:aws:iam:{REGION}:{ACCOUNT}:role/web-shift",
    }
    (trust,) = made.one("aws:iam/role:Role", "web-shift").json("assumeRolePolicy")["Statement"]
    assert trust["Principal"] == {"Service": "ecs.amazonaws.com"}
    assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}
    policy = made.one("aws:iam/rolePolicy:RolePolicy", "web-shift-traffic")
    look, move, rule = policy.json("policy")["Statement"]
    assert all(action.startswith("elasticloadbalancing:Describe") for action in look["Action"])
    assert move["Resource"] == ["arn:targets", "arn:other"]
    assert (rule["Action"], rule["Resource"]) == (["elasticloadbalancing:ModifyRule"], "arn:rule")
    # ECS needs the right when the service is made, and still when it is deleted.
    assert policy.urn in made.one(SERVICE).dependencies


def test_a_rolling_service_shifts_nothing_and_has_no_role_for_it(record: Record) -> None:
    made = recorded(record)
    assert made.one(SERVICE).inputs["deploymentConfiguration"] == {"strategy": "ROLLING"}
    assert "advancedConfiguration" not in made.one(SERVICE).inputs["loadBalancers"][0]
    assert [role.name for role in made.all("aws:iam/role:Role")] == ["web-execution", "web-task"]


def test_the_circuit_breaker_guards_rolling_deployments_and_alarms_guard_all(record: Record) -> None:
    for rollout in Rollout:
        service = recorded(record, rollout=rollout).one(SERVICE).inputs
        rolling = rollout is Rollout.ROLLING
        assert service["deploymentCircuitBreaker"] == {"enable": rolling, "rollback": rolling}
        assert service["deploymentMinimumHealthyPercent"] == 100
        assert service["alarms"] == {
            "enable": True,
            "rollback": True,
            "alarmNames": ["web-rollback-errors", "web-rollback-latency", "web-rollback-unready"],
        }


def test_the_alarms_exist_before_the_service_that_names_them(record: Record) -> None:
    made = recorded(record)
    alarms = {alarm.urn for alarm in made.all(ALARM) if "rollback" in alarm.name}
    assert len(alarms) == 3
    assert alarms <= set(made.one(SERVICE).dependencies)


def test_a_worker_is_judged_by_its_errors_alone(record: Record) -> None:
    made = record(lambda: ContainerService("worker", args(**WORKER)))
    assert made.one(SERVICE).inputs["alarms"]["alarmNames"] == ["worker-rollback-errors"]


def test_the_revision_before_can_still_be_started(record: Record) -> None:
    assert recorded(record).one("aws:ecs/taskDefinition:TaskDefinition").inputs["skipDestroy"] is True


def test_the_balancer_makes_a_second_group_and_a_rule_that_belongs_to_ecs(record: Record) -> None:
    made = record(lambda: LoadBalancer("web", balancer_args(shift_traffic=True)), outputs=COMPUTED)
    first, second = made.all(TARGETS)
    assert (first.name, second.name) == ("web-tg", "web-tg2")
    assert first.inputs == second.inputs
    rule = made.one("aws:lb/listenerRule:ListenerRule")
    assert rule.ignore_changes == ("actions",)
    assert rule.inputs["conditions"] == [{"pathPattern": {"values": ["/*"]}}]
    (action,) = rule.inputs["actions"]
    assert [group["weight"] for group in action["forward"]["targetGroups"]] == [100, 0]
    assert len(made.all(LISTENER)) == 1
    outputs = made.outputs("prodkit:index:LoadBalancer")
    assert json.dumps(outputs["listener_rule_arn"]).endswith('web-shift"')
    assert outputs["alternate_target_group_arn"] != outputs["target_group_arn"]


def test_a_balancer_of_rolling_deployments_has_one_group(record: Record) -> None:
    made = record(lambda: LoadBalancer("web", balancer_args()), outputs=COMPUTED)
    assert len(made.all(TARGETS)) == 1
    assert made.all("aws:lb/listenerRule:ListenerRule") == []
    assert made.outputs("prodkit:index:LoadBalancer")["listener_rule_arn"] == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rollout": "canari"}, "rollout='canari' is unknown; did you mean 'canary'"),
        ({"rollout": "canary", "rollout_percent": 51}, "rollout_percent=51 is not allowed; choose 1 to 50 percent"),
        ({"rollout": "linear", "rollout_percent": 2}, "rollout_percent=2 is not allowed with linear; choose 3 to 50"),
        ({"rollout": "canary", "bake_minutes": 236}, "rollout=canary would take 241 minutes besides starting tasks"),
        ({"bake_minutes": 1441}, "bake_minutes=1441 is not allowed; choose 0 to 1440 minutes"),
        ({"rollout_step_minutes": -1}, "rollout_step_minutes=-1 is not allowed"),
        ({"rollback_latency_p99_ms": 99}, "rollback_latency_p99_ms=99 is not allowed; choose 100 to 3600000 ms"),
        ({"listener_rule_arn": None}, "alternate_target_group_arn and listener_rule_arn belong together"),
        ({"load_balancer_suffix": None}, "load_balancer_suffix and target_group_suffixes belong together"),
        (
            {"rollout": "canary", "alternate_target_group_arn": None, "listener_rule_arn": None},
            "rollout=canary shifts requests between two target groups; set target_group_arn",
        ),
        ({**WORKER, "rollout": "linear"}, "rollout=linear shifts requests between two target groups"),
    ],
)
def test_a_rollout_that_cannot_work_is_refused_with_the_fix(
    record: Record, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^ContainerService: {message}"):
        recorded(record, **wrong)


@given(st.sampled_from(list(Rollout)), PERCENT, STEP, BAKE, st.integers(60, 14_400))
def test_a_deployment_is_never_given_up_while_ecs_waits_on_purpose(
    rollout: Rollout, percent: int, step: int, bake: int, base: int
) -> None:
    patience = _rollout.deployment_seconds(base, rollout, percent, step, bake)
    assert patience - base >= 60 * _rollout.shift_minutes(rollout, percent, step, bake)
    assert patience >= base


@given(PERCENT, STEP, BAKE)
def test_linear_steps_add_up_to_all_requests_and_the_last_is_not_waited_for(percent: int, step: int, bake: int) -> None:
    steps = math.ceil(100 / percent)
    assert steps * percent >= 100 > (steps - 1) * percent
    assert _rollout.shift_minutes(Rollout.LINEAR, percent, step, bake) == (steps - 1) * step + bake


@given(st.sampled_from(list(Rollout)), st.integers(-5, 110), STEP, BAKE)
def test_what_is_accepted_ends_within_the_hours_that_somebody_watches(
    rollout: Rollout, percent: int, step: int, bake: int
) -> None:
    if _rollout.problem(rollout, percent, step, bake) is None:
        assert rollout is Rollout.ROLLING or 1 <= percent <= 50
        assert _rollout.shift_minutes(rollout, percent, step, bake) <= _rollout.LONGEST_SHIFT_MINUTES
