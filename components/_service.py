"""The checks of a container service's arguments, and their defaults."""

import re
from collections.abc import Mapping
from typing import Any

from components import _rollout
from components._args import LOG_RETENTION_DAYS, between, check_known, checked, choice, one_of
from components._fargate import Architecture, check_size
from components._rollout import LONGEST_BAKE_MINUTES, Rollout
from components._timeouts import LONGEST_CONTAINER_STOP_SECONDS

# field -> default, least, most, unit
_NUMBERS: dict[str, tuple[int | None, int, int, str]] = {
    "min_tasks": (None, 1, 1000, "tasks"),
    "max_tasks": (None, 1, 1000, "tasks"),
    "spot_percent": (0, 0, 100, "percent"),
    "port": (8080, 1, 65_535, ""),
    "stop_timeout_seconds": (None, 2, LONGEST_CONTAINER_STOP_SECONDS, "seconds"),
    "deployment_seconds": (1800, 60, 14_400, "seconds"),
    "rollout_percent": (10, 1, 50, "percent"),
    "rollout_step_minutes": (5, 0, LONGEST_BAKE_MINUTES, "minutes"),
    "bake_minutes": (5, 0, LONGEST_BAKE_MINUTES, "minutes"),
    "rollback_latency_p99_ms": (60_000, 100, 3_600_000, "ms"),
}
_TARGETS = {
    "target_in_flight_per_task": between(1, 10_000, "requests"),
    "target_backlog_per_task": between(1, 100_000, "messages"),
}
_PAIRS = (
    ("cluster_arn", "cluster_name"),
    ("target_group_arn", "load_balancer_security_group_id"),
    ("target_backlog_per_task", "queue_name"),
    ("alternate_target_group_arn", "listener_rule_arn"),
    ("load_balancer_suffix", "target_group_suffixes"),
)


def check_service(component: str, args: Mapping[str, Any], args_type: type) -> dict[str, Any]:
    """The arguments with defaults filled in, and with the checks of outputs attached to them.

    Raises:
        ValueError: naming the field, its value and the fix.
    """
    check_known(component, args, args_type)
    try:
        check_size(args["cpu"], args["memory_mib"])
    except ValueError as problem:
        raise ValueError(f"{component}: {problem}") from None
    # A program in another language sends its numbers as floats, and "512.0" is no size.
    given = {**args, "cpu": int(args["cpu"]), "memory_mib": int(args["memory_mib"])}
    for field, (default, low, high, unit) in _NUMBERS.items():
        given[field] = checked(component, field, given.get(field, default), between(low, high, unit))
    for field, problem_of in _TARGETS.items():
        if given.get(field) is not None:
            checked(component, field, given[field], problem_of)
            given[field] = int(given[field])
    if given["min_tasks"] > given["max_tasks"]:
        raise ValueError(
            f"{component}: min_tasks={given['min_tasks']} is more than max_tasks={given['max_tasks']}; raise max_tasks."
        )
    given["image"] = checked(component, "image", given["image"], image_problem)
    days = given.get("log_retention_days", 30)
    given["log_retention_days"] = checked(component, "log_retention_days", days, one_of(LOG_RETENTION_DAYS, "days"))
    architecture = given.get("architecture", Architecture.ARM64)
    given["architecture"] = choice(component, "architecture", architecture, Architecture)
    given["wait_for_steady_state"] = given.get("wait_for_steady_state", True)
    _check_pairs(component, given)
    _check_rollout(component, given)
    _check_connections(component, given)
    return given


def _check_pairs(component: str, args: Mapping[str, Any]) -> None:
    """Arguments that only make sense together, or only apart."""
    for one, other in _PAIRS:
        if (args.get(one) is None) != (args.get(other) is None):
            raise ValueError(f"{component}: {one} and {other} belong together; set both or neither.")
    if (args.get("target_in_flight_per_task") is None) == (args.get("target_backlog_per_task") is None):
        raise ValueError(
            f"{component}: target_in_flight_per_task or target_backlog_per_task decides the number of tasks; "
            "set exactly one."
        )


def _check_rollout(component: str, args: dict[str, Any]) -> None:
    """A rollout with traffic to shift and a way to shift it; its numbers become whole."""
    rollout = choice(component, "rollout", args.get("rollout", Rollout.ROLLING), Rollout)
    numbers = [int(args[field]) for field in ("rollout_percent", "rollout_step_minutes", "bake_minutes")]
    args["rollout"] = rollout
    args["rollout_percent"], args["rollout_step_minutes"], args["bake_minutes"] = numbers
    args["deployment_seconds"] = int(args["deployment_seconds"])
    found = _rollout.problem(rollout, *numbers)
    if found:
        raise ValueError(f"{component}: {found}")
    if rollout is not Rollout.ROLLING and (
        args.get("target_group_arn") is None or args.get("alternate_target_group_arn") is None
    ):
        raise ValueError(
            f"{component}: rollout={rollout.value} shifts requests between two target groups; set target_group_arn, "
            "alternate_target_group_arn and listener_rule_arn, or choose rolling."
        )


def _check_connections(component: str, args: Mapping[str, Any]) -> None:
    names = [connection.get("name") for connection in args.get("connections", ())]
    if len(set(names)) < len(names) or {"requests", "https"} & set(names):
        raise ValueError(
            f"{component}: connections={names} must have a name each, once, and not 'requests' or 'https'; rename one."
        )


def image_problem(image: str) -> str | None:
    """A problem finder for `checked`: an image without its digest."""
    if re.search(r"@sha256:[0-9a-f]{64}$", image):
        return None
    return "has no digest, so two tasks could run different code; use <repository>@sha256:<64 hex digits>."
