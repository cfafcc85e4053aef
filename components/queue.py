"""A queue for work that may wait, and a place for what could not be done."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import between, check_known, checked
from components._policies import deny_without_tls, document, grant, statement, use_key

_DAY_SECONDS = 24 * 3600
# the longest that SQS keeps a message, https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
_MAX_RETENTION_DAYS = 14
_LONG_POLL_SECONDS = 20  # the longest there is: fewer empty receives, and no slower


class QueueArgs(TypedDict):
    """What `Queue` takes."""

    key_arn: pulumi.Input[str]
    """ARN of the KMS key that encrypts messages."""

    visibility_timeout_seconds: pulumi.Input[int]
    """Seconds in which a message that was taken is hidden from others, 1-43200; longer than its work takes."""

    max_receives: NotRequired[pulumi.Input[int]]
    """How often a message is handed out before it goes to the dead-letter queue, 1-1000; default 5."""

    retention_days: NotRequired[pulumi.Input[int]]
    """Days a message waits before it is lost, 1-14; default 14. The dead-letter queue always keeps 14, counted from
    when the message was first sent."""

    tags: NotRequired[pulumi.Input[Mapping[str, pulumi.Input[str]]]]
    """Tags of every resource."""


class Queue(pulumi.ComponentResource):
    """An encrypted SQS queue with a dead-letter queue; both refuse whoever does not use TLS."""

    url: pulumi.Output[str]
    """URL of the queue."""
    arn: pulumi.Output[str]
    """ARN of the queue."""
    name: pulumi.Output[str]
    """Name of the queue, its metric dimension."""
    dead_letter_name: pulumi.Output[str]
    """Name of the dead-letter queue, its metric dimension."""
    dead_letter_arn: pulumi.Output[str]
    """ARN of the dead-letter queue."""
    send_policy: pulumi.Output[str]
    """IAM policy (JSON) that allows sending messages."""
    consume_policy: pulumi.Output[str]
    """IAM policy (JSON) that allows taking, hiding and deleting messages."""

    def __init__(self, name: str, args: QueueArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Queue", args, QueueArgs)
        visibility = checked(
            "Queue", "visibility_timeout_seconds", args["visibility_timeout_seconds"], between(1, 43200, "seconds")
        )
        receives = checked("Queue", "max_receives", args.get("max_receives", 5), between(1, 1000, "receives"))
        days = checked(
            "Queue", "retention_days", args.get("retention_days", 14), between(1, _MAX_RETENTION_DAYS, "days")
        )

        super().__init__("prodkit:index:Queue", name, {}, opts)

        dead = aws.sqs.Queue(
            f"{name}-dead",
            kms_master_key_id=args["key_arn"],
            message_retention_seconds=_MAX_RETENTION_DAYS * _DAY_SECONDS,
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        work = aws.sqs.Queue(
            f"{name}-work",
            kms_master_key_id=args["key_arn"],
            message_retention_seconds=pulumi.Output.from_input(days).apply(lambda known: int(known * _DAY_SECONDS)),
            visibility_timeout_seconds=visibility,
            receive_wait_time_seconds=_LONG_POLL_SECONDS,
            redrive_policy=pulumi.Output.json_dumps(
                {
                    "deadLetterTargetArn": dead.arn,
                    "maxReceiveCount": pulumi.Output.from_input(receives).apply(int),
                }
            ),
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        # not inline: each queue would then need the other's ARN before either exists
        aws.sqs.RedriveAllowPolicy(
            f"{name}-redrive",
            queue_url=dead.url,
            redrive_allow_policy=pulumi.Output.json_dumps(
                {"redrivePermission": "byQueue", "sourceQueueArns": [work.arn]}
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        for purpose, queue in (("work", work), ("dead", dead)):
            aws.sqs.QueuePolicy(
                f"{name}-{purpose}-policy",
                queue_url=queue.url,
                policy=pulumi.Output.json_dumps(document(deny_without_tls(["sqs:*"], queue.arn))),
                opts=pulumi.ResourceOptions(parent=self),
            )

        region = aws.get_region_output(opts=pulumi.InvokeOptions(parent=self)).region
        key_use = use_key(args["key_arn"], [pulumi.Output.format("sqs.{0}.amazonaws.com", region)])
        self.url = work.url
        self.arn = work.arn
        self.name = work.name
        self.dead_letter_name = dead.name
        self.dead_letter_arn = dead.arn
        self.send_policy = grant(statement(["sqs:SendMessage"], work.arn, sid="Send"), key_use)
        self.consume_policy = grant(
            statement(
                ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"],
                work.arn,
                sid="Consume",
            ),
            key_use,
        )
        self.register_outputs(
            {
                "url": self.url,
                "arn": self.arn,
                "name": self.name,
                "dead_letter_name": self.dead_letter_name,
                "dead_letter_arn": self.dead_letter_arn,
                "send_policy": self.send_policy,
                "consume_policy": self.consume_policy,
            }
        )
