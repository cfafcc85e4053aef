"""What scales a service: the target, its policies and their alarms, as children of the service's component."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_aws as aws

from components import _metrics, _scaling


class Scaler:
    """Registers the scaling of one service; `args` are the checked ones of its ContainerService."""

    def __init__(
        self,
        name: str,
        args: Mapping[str, Any],
        cluster_name: pulumi.Input[str],
        service_name: pulumi.Input[str],
        child: pulumi.ResourceOptions,
    ) -> None:
        self._name = name
        self._args = args
        self._tags = args.get("tags", {})
        self._child = child
        self._target = aws.appautoscaling.Target(
            f"{name}-scale",
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=pulumi.Output.format("service/{0}/{1}", cluster_name, service_name),
            min_capacity=args["min_tasks"],
            max_capacity=args["max_tasks"],
            tags=self._tags,
            opts=child,
        )
        for what in _scaling.GUARDS:
            self._policy(what, tracking=_scaling.guard(what))
        in_flight = args.get("target_in_flight_per_task")
        if in_flight is not None:
            self._follow_requests(in_flight)
        per_task, queue = args.get("target_backlog_per_task"), args.get("queue_name")
        if per_task is not None and queue is not None:
            self._policy("backlog", tracking=_scaling.backlog(per_task, queue, cluster_name, service_name))

    def _policy(self, what: str, *, tracking: Any = None, steps: Any = None) -> aws.appautoscaling.Policy:
        return aws.appautoscaling.Policy(
            f"{self._name}-{what}",
            policy_type="TargetTrackingScaling" if tracking is not None else "StepScaling",
            service_namespace=self._target.service_namespace,
            scalable_dimension=self._target.scalable_dimension,
            resource_id=self._target.resource_id,
            target_tracking_scaling_policy_configuration=tracking,
            step_scaling_policy_configuration=steps,
            opts=self._child,
        )

    def _follow_requests(self, in_flight: int) -> None:
        """Grows within half a minute when tasks are full, shrinks after ten quiet minutes."""
        for rule in _scaling.load_rules(in_flight):
            policy = self._policy(rule.policy, steps=rule.steps)
            aws.cloudwatch.MetricAlarm(
                f"{self._name}-{rule.alarm}",
                alarm_description=rule.description,
                namespace=_metrics.NAMESPACE,
                metric_name=_metrics.IN_FLIGHT_REQUESTS,
                dimensions=_metrics.dimensions(self._args["stack"], self._args["service"]),
                statistic="Average",
                comparison_operator=rule.comparison,
                threshold=rule.threshold,
                period=rule.period_seconds,
                evaluation_periods=rule.periods,
                # No data is no reason to change the number of tasks; the heartbeat alarm tells people.
                treat_missing_data="notBreaching",
                alarm_actions=[policy.arn],
                tags=self._tags,
                opts=self._child,
            )
