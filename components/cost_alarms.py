"""CostAlarms: what AWS costs, by budget and anomaly detection, and what OpenAI costs, by the app's own meter."""

import json
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components import _alarms
from components._args import check_known, checked

# Percent of the month's budget -> what AWS Budgets compares with it. The forecast comes first in time: it needs about
# five weeks of history before it speaks, hence the two on actual cost.
_NOTICES = ((80, "ACTUAL"), (100, "ACTUAL"), (100, "FORECASTED"))
_MOST_ADDRESSES = 10  # of one notification, AWS Budgets
SMALLEST_ANOMALY_USD = 10


class CostAlarmsArgs(TypedDict):
    """What CostAlarms are made from."""

    stack: str
    """Value of the `Stack` dimension in the app's metrics. Known before deployment."""
    monthly_budget_usd: float
    """What the stack may cost on AWS in a month, in USD, above 0. Known before deployment."""
    token_budget_usd: float
    """What the stack may cost at OpenAI in a month, in USD, above 0: alarms fire on the pace; the app refuses at
    its end. Known before deployment."""
    email: Sequence[str]
    """Addresses that AWS Budgets writes to, 10 at most, besides the topic; may be empty. Known before deployment."""
    topic_arn: pulumi.Input[str]
    """SNS topic that CloudWatch, Budgets and cost alerts may publish to."""
    cost_tag_key: str
    """Tag on every resource of the stack by which its cost is told apart. Activate it as a cost allocation tag in the
    billing console, or budget and anomaly monitor see nothing. Known before deployment."""
    cost_tag_value: str
    """The stack's value of that tag. Known before deployment."""
    anomaly_monitor_arn: NotRequired[pulumi.Input[str]]
    """Adopted cost anomaly monitor; default: one is made on the cost tag. Whether it is set is known before
    deployment."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class CostAlarms(pulumi.ComponentResource):
    """Tells people that money goes faster than planned: by the minute for tokens, within a day for AWS."""

    budget_name: pulumi.Output[str]
    """AWS budget of the stack."""

    def __init__(self, name: str, args: CostAlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        _check(args)
        super().__init__("prodkit:index:CostAlarms", name, {}, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        budget = self._budget()
        self._anomalies()
        stack = args["stack"]
        for alarm in (*_alarms.spend_alarms(stack, args["token_budget_usd"]), *_alarms.budget_alarms(stack)):
            aws.cloudwatch.MetricAlarm(
                f"{name}-{alarm.name}",
                **alarm.inputs(),
                alarm_actions=[args["topic_arn"]],
                ok_actions=[args["topic_arn"]],
                tags=args.get("tags", {}),
                opts=self._child,
            )
        self.budget_name = budget.name
        self.register_outputs({"budget_name": self.budget_name})

    def _budget(self) -> aws.budgets.Budget:
        args = self._args
        tag = f"user:{args['cost_tag_key']}${args['cost_tag_value']}"
        return aws.budgets.Budget(
            f"{self._name}-budget",
            budget_type="COST",
            time_unit="MONTHLY",
            limit_amount=f"{args['monthly_budget_usd']:.1f}",
            limit_unit="USD",
            cost_filters=[{"name": "TagKeyValue", "values": [tag]}],
            notifications=[
                {
                    "comparison_operator": "GREATER_THAN",
                    "threshold": percent,
                    "threshold_type": "PERCENTAGE",
                    "notification_type": kind,
                    "subscriber_email_addresses": list(args["email"]),
                    "subscriber_sns_topic_arns": [args["topic_arn"]],
                }
                for percent, kind in _NOTICES
            ],
            tags=args.get("tags", {}),
            opts=self._child,
        )

    def _anomalies(self) -> None:
        args = self._args
        monitor_arn = args.get("anomaly_monitor_arn")
        if monitor_arn is None:
            # On the tag, not on services: an account has only one monitor of services, maybe another team's.
            monitor_arn = aws.costexplorer.AnomalyMonitor(
                f"{self._name}-monitor",
                monitor_type="CUSTOM",
                monitor_specification=json.dumps(anomaly_scope(args["cost_tag_key"], args["cost_tag_value"])),
                tags=args.get("tags", {}),
                opts=self._child,
            ).arn
        aws.costexplorer.AnomalySubscription(
            f"{self._name}-anomalies",
            frequency="IMMEDIATE",  # the only one that SNS subscribers can have
            monitor_arn_lists=[monitor_arn],
            subscribers=[{"type": "SNS", "address": args["topic_arn"]}],
            threshold_expression={
                "dimension": {
                    "key": "ANOMALY_TOTAL_IMPACT_ABSOLUTE",
                    "match_options": ["GREATER_THAN_OR_EQUAL"],
                    "values": [str(smallest_anomaly_usd(args["monthly_budget_usd"]))],
                }
            },
            tags=args.get("tags", {}),
            opts=self._child,
        )


def anomaly_scope(key: str, value: str) -> dict[str, object]:
    """Cost Explorer's expression for one tag value; it returns the empty branches, so they are part of it."""
    empty = dict.fromkeys(("And", "CostCategories", "Dimensions", "Not", "Or"))
    return {**empty, "Tags": {"Key": f"user:{key}", "MatchOptions": None, "Values": [value]}}


def smallest_anomaly_usd(monthly_budget_usd: float) -> int:
    """Impact in whole USD from which an anomaly is worth a message: a twentieth of the month's budget."""
    return max(SMALLEST_ANOMALY_USD, round(monthly_budget_usd / 20))


def _check(args: CostAlarmsArgs) -> None:
    check_known("CostAlarms", args, CostAlarmsArgs)
    _alarms.check_addresses("CostAlarms", args["email"])
    if len(args["email"]) > _MOST_ADDRESSES:
        raise ValueError(
            f"CostAlarms: email has {len(args['email'])} addresses and AWS Budgets takes {_MOST_ADDRESSES}; "
            "use the address of a mailing list."
        )
    for field in ("monthly_budget_usd", "token_budget_usd"):
        checked("CostAlarms", field, float(args[field]), _positive)


def _positive(value: float) -> str | None:
    return None if 0 < value < float("inf") else "is no budget; use an amount above 0."
