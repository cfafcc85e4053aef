"""How a new version takes over from the old one: ECS's deployment strategies as data, and how long each takes.

https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DeploymentConfiguration.html
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import pulumi

from components._policies import grant, statement

LONGEST_BAKE_MINUTES = 1440
# A deployment is waited for: past four hours nobody watches it any more.
LONGEST_SHIFT_MINUTES = 240
# How long a rolling deployment is watched by its alarms is ECS's own decision, from their periods: three minutes of
# data and the delay of metrics, with room to spare.
ALARM_WATCH_SECONDS = 600


class Rollout(StrEnum):
    """How a new version takes over from the old one."""

    ROLLING = "rolling"
    """Tasks are replaced a few at a time; new ones get their share of requests as soon as they are ready."""
    CANARY = "canary"
    """All new tasks start beside the old ones, get a small share of requests for a while, then the rest at once."""
    LINEAR = "linear"
    """All new tasks start beside the old ones and get requests in equal steps."""


# The least and most share that the first or each step may take, in percent; AWS takes 3 as the smallest linear step.
_PERCENT = {Rollout.CANARY: (1, 50), Rollout.LINEAR: (3, 50)}


def problem(rollout: Rollout, percent: int, step_minutes: int, bake_minutes: int) -> str | None:
    """What is wrong with a rollout and how to mend it, or None.

    Args:
        rollout: the strategy; a rolling one has no shares and no minutes, so nothing can be wrong with it.
        percent: share of requests that a canary starts with, or that each linear step adds.
        step_minutes: minutes that the canary, or each step but the last, lasts.
        bake_minutes: minutes that the old tasks are kept after the new ones have all requests.
    """
    if rollout is Rollout.ROLLING:
        return None
    low, high = _PERCENT[rollout]
    if not low <= percent <= high:
        return f"rollout_percent={percent} is not allowed with {rollout.value}; choose {low} to {high} percent."
    minutes = shift_minutes(rollout, percent, step_minutes, bake_minutes)
    if minutes > LONGEST_SHIFT_MINUTES:
        return (
            f"rollout={rollout.value} would take {minutes} minutes besides starting tasks; larger steps or shorter "
            f"waits bring it under {LONGEST_SHIFT_MINUTES}."
        )
    return None


def shift_minutes(rollout: Rollout, percent: int, step_minutes: int, bake_minutes: int) -> int:
    """Minutes that ECS waits on purpose in one deployment; see `problem` for the arguments."""
    if rollout is Rollout.ROLLING:
        return 0
    # ECS does not wait after the step that reaches 100 percent, the bake follows.
    waits = 1 if rollout is Rollout.CANARY else math.ceil(100 / percent) - 1
    return waits * step_minutes + bake_minutes


def deployment_seconds(base_seconds: int, rollout: Rollout, percent: int, step_minutes: int, bake_minutes: int) -> int:
    """Seconds after which a deployment has failed: `base_seconds` to start and drain tasks, and what ECS waits."""
    if rollout is Rollout.ROLLING:
        return base_seconds + ALARM_WATCH_SECONDS
    return base_seconds + 60 * shift_minutes(rollout, percent, step_minutes, bake_minutes)


def configuration(rollout: Rollout, percent: int, step_minutes: int, bake_minutes: int) -> Any:
    """The service's `deployment_configuration`; the provider takes minutes as text."""
    if rollout is Rollout.ROLLING:
        return {"strategy": "ROLLING"}
    shift = {
        Rollout.CANARY: {
            "canary_configuration": {"canary_percent": percent, "canary_bake_time_in_minutes": str(step_minutes)}
        },
        Rollout.LINEAR: {
            "linear_configuration": {"step_percent": percent, "step_bake_time_in_minutes": str(step_minutes)}
        },
    }
    return {"strategy": rollout.value.upper(), "bake_time_in_minutes": str(bake_minutes), **shift[rollout]}


def shift_policy(target_groups: Sequence[pulumi.Input[str]], rule: pulumi.Input[str]) -> pulumi.Output[str]:
    """What AWS's policy AmazonECSInfrastructureRolePolicyForLoadBalancers allows, for one rule and its groups.

    The balancer's Describe calls know no resources, hence `*`:
    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awselasticloadbalancingv2.html
    """
    api = "elasticloadbalancing:"
    look = [f"{api}Describe{what}" for what in ("Listeners", "Rules", "TargetGroups", "TargetHealth")]
    return grant(
        statement(look, "*"),
        statement([f"{api}RegisterTargets", f"{api}DeregisterTargets"], target_groups),
        statement([f"{api}ModifyRule"], rule),
    )
