"""Topic: where alarms, budgets and the app's own alerts are published, and whom they reach."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components import _alarms
from components._args import check_known
from components._policies import deny_without_tls, document, grant, statement, use_key

# Who may publish: CloudWatch alarms, AWS Budgets and Cost Anomaly Detection, each for this account only.
PUBLISHERS = ("cloudwatch.amazonaws.com", "budgets.amazonaws.com", "costalerts.amazonaws.com")


class TopicArgs(TypedDict):
    """What a Topic is made from."""

    stack: str
    """Name of the stack, in the subject of e-mails. Known before deployment."""
    email: Sequence[str]
    """Addresses that everything reaches once they confirmed the message AWS sends them; may be empty. Known before
    deployment."""
    webhooks: NotRequired[Sequence[str]]
    """HTTPS addresses that everything is posted to as SNS does it, once they confirmed; default none. They are in the
    stack's state, so none may hold a secret. Known before deployment."""
    key_arn: pulumi.Input[str]
    """KMS key of the topic; its policy must let CloudWatch, Budgets and cost alerts publish."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class Topic(pulumi.ComponentResource):
    """One encrypted SNS topic for everything that people have to know."""

    arn: pulumi.Output[str]
    """ARN of the topic."""
    publish_policy: pulumi.Output[str]
    """IAM policy (JSON) of a task that publishes alerts of its own."""

    def __init__(self, name: str, args: TopicArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Topic", args, TopicArgs)
        _alarms.check_addresses("Topic", args["email"])
        webhooks = args.get("webhooks", [])
        _check_webhooks(webhooks)
        super().__init__("prodkit:index:Topic", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        invoke = pulumi.InvokeOptions(parent=self)

        topic = aws.sns.Topic(
            f"{name}-topic",
            display_name=f"prodkit {args['stack']}",
            kms_master_key_id=args["key_arn"],
            tags=args.get("tags", {}),
            opts=child,
        )
        account = aws.get_caller_identity_output(opts=invoke).account_id
        region = aws.get_region_output(opts=invoke).region
        publish = [
            statement(
                ["sns:Publish"],
                topic.arn,
                sid=f"Publish{service.partition('.')[0].title()}",
                principal={"Service": service},
                conditions={"StringEquals": {"aws:SourceAccount": account}},
            )
            for service in PUBLISHERS
        ]
        aws.sns.TopicPolicy(
            f"{name}-policy",
            arn=topic.arn,
            policy=pulumi.Output.json_dumps(document(*publish, deny_without_tls(["sns:Publish"], topic.arn))),
            opts=child,
        )
        for protocol, endpoints in (("email", args["email"]), ("https", webhooks)):
            for endpoint in endpoints:
                aws.sns.TopicSubscription(
                    # By address, so that taking one off the list leaves the confirmed others alone.
                    f"{name}-{protocol}-{hashlib.sha256(endpoint.encode()).hexdigest()[:8]}",
                    topic=topic.arn,
                    protocol=protocol,
                    endpoint=endpoint,
                    opts=child,
                )

        self.arn = topic.arn
        self.publish_policy = grant(
            statement(["sns:Publish"], topic.arn),
            use_key(args["key_arn"], [pulumi.Output.format("sns.{0}.amazonaws.com", region)]),
        )
        self.register_outputs({"arn": self.arn, "publish_policy": self.publish_policy})


def _check_webhooks(webhooks: Sequence[str]) -> None:
    for address in webhooks:
        if not re.fullmatch(r"https://[^\s/@?#]+(/[^\s?#]*)?", address):
            raise ValueError(
                f"Topic: webhooks={address!r} is no https address without credentials and query; SNS posts to "
                "https://host/path."
            )
    if len(set(webhooks)) < len(webhooks):
        raise ValueError(f"Topic: webhooks={list(webhooks)} names an address twice; keep one.")
