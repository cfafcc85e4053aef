"""Alarms: the alarms that tell people, and the dashboard they look at."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components import _alarms, _dashboard, _metrics
from components._args import between, check_known, checked


class AlarmsArgs(TypedDict):
    """What Alarms are made from."""

    stack: str
    """Value of the `Stack` dimension in the app's metrics, and the dashboard's name. Known before deployment."""
    topic_arn: pulumi.Input[str]
    """SNS topic that CloudWatch may publish to."""
    cluster_name: pulumi.Input[str]
    """ECS cluster of both services."""
    web_service_name: pulumi.Input[str]
    """ECS service that answers requests."""
    worker_service_name: pulumi.Input[str]
    """ECS service that works on the queue."""
    load_balancer_suffix: pulumi.Input[str]
    """`LoadBalancer` dimension of the balancer."""
    target_group_suffixes: Sequence[pulumi.Input[str]]
    """`TargetGroup` dimensions of the web tasks: all groups they may be in. Their number is known before deployment."""
    queue_name: pulumi.Input[str]
    """Queue of the worker."""
    dead_letter_name: pulumi.Input[str]
    """Queue of work that failed too often."""
    web_log_group_name: pulumi.Input[str]
    """Log group of the web tasks."""
    worker_log_group_name: pulumi.Input[str]
    """Log group of the worker tasks."""
    latency_p99_ms: NotRequired[int]
    """An alarm when one in a hundred requests takes longer, 100-3600000 ms; default 60000. Known before deployment."""
    first_token_p99_ms: NotRequired[int]
    """An alarm when one in a hundred streams begins later, 100-600000 ms; default 10000. Known before deployment."""
    queue_age_seconds: NotRequired[int]
    """An alarm when the oldest work has waited longer, 60-1209600 s; default 900. Known before deployment."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class Alarms(pulumi.ComponentResource):
    """Alarms on what callers feel and on what is about to run out; each has an action and says what silence means."""

    dashboard_name: pulumi.Output[str]
    """CloudWatch dashboard of the stack."""
    dashboard_url: pulumi.Output[str]
    """Address of the dashboard in the console."""

    def __init__(self, name: str, args: AlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Alarms", args, AlarmsArgs)
        latency = args.get("latency_p99_ms", 60_000)
        first_token = args.get("first_token_p99_ms", 10_000)
        oldest = args.get("queue_age_seconds", 900)
        checked("Alarms", "latency_p99_ms", latency, between(100, 3_600_000, "ms"))
        checked("Alarms", "first_token_p99_ms", first_token, between(100, 600_000, "ms"))
        checked("Alarms", "queue_age_seconds", oldest, between(60, 1_209_600, "seconds"))
        super().__init__("prodkit:index:Alarms", name, {}, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)

        cluster = args["cluster_name"]
        for alarm in (
            *_alarms.app_alarms(args["stack"], latency, first_token),
            *_alarms.balancer_alarms(args["load_balancer_suffix"], args["target_group_suffixes"]),
            *_alarms.queue_alarms(args["queue_name"], args["dead_letter_name"], oldest),
            *_alarms.saturation_alarms(_metrics.WEB, cluster, args["web_service_name"]),
            *_alarms.saturation_alarms(_metrics.WORKER, cluster, args["worker_service_name"]),
        ):
            aws.cloudwatch.MetricAlarm(
                f"{name}-{alarm.name}",
                **alarm.inputs(),
                alarm_actions=[args["topic_arn"]],
                ok_actions=[args["topic_arn"]],
                tags=args.get("tags", {}),
                opts=self._child,
            )
        region = aws.get_region_output(opts=pulumi.InvokeOptions(parent=self)).region
        dashboard = aws.cloudwatch.Dashboard(
            f"{name}-dashboard",
            # People look for it by the stack's name.
            dashboard_name=f"prodkit-{args['stack']}",
            dashboard_body=pulumi.Output.json_dumps(
                _dashboard.body(
                    stack=args["stack"],
                    region=region,
                    cluster=cluster,
                    services={
                        _metrics.WEB: args["web_service_name"],
                        _metrics.WORKER: args["worker_service_name"],
                    },
                    load_balancer=args["load_balancer_suffix"],
                    target_groups=args["target_group_suffixes"],
                    queue=args["queue_name"],
                    dead_letters=args["dead_letter_name"],
                    log_groups=[args["web_log_group_name"], args["worker_log_group_name"]],
                )
            ),
            opts=self._child,
        )

        self.dashboard_name = dashboard.dashboard_name
        self.dashboard_url = pulumi.Output.format(
            "https://{0}.console.aws.amazon.com/cloudwatch/home?region={0}#dashboards/dashboard/{1}",
            region,
            dashboard.dashboard_name,
        )
        self.register_outputs(
            {
                "dashboard_name": self.dashboard_name,
                "dashboard_url": self.dashboard_url,
            }
        )
