"""Customer keys: one for everything, or one for each class of data."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import between, check_known, checked
from components._policies import Conditions, Document, document, statement


class DataClass(StrEnum):
    """What a key is for, and with it which services may use it."""

    DATA = "data"
    """Documents, tables, caches and images."""

    SECRETS = "secrets"
    """Secrets."""

    LOGS = "logs"
    """Log groups, which CloudWatch encrypts on its own behalf."""

    MESSAGES = "messages"
    """Queues and topics, to which alarms, budgets and cost alerts publish."""


# Services that use a key on behalf of whoever calls them, as `kms:ViaService` spells them.
SERVICES = {
    DataClass.DATA: ("dynamodb", "ecr", "elasticache", "s3"),
    DataClass.SECRETS: ("secretsmanager",),
    DataClass.LOGS: (),
    DataClass.MESSAGES: ("sns", "sqs"),
}
# What AWS gives the administrators of a key, but for CreateGrant, by which they could let themselves decrypt:
# https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html#key-policy-default-allow-administrators
ADMINISTRATION = [
    *(f"kms:{verb}*" for verb in ("Delete", "Describe", "Disable", "Enable", "Get", "List", "Put", "Revoke", "Update")),
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
]
USE = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
# Tables, caches and registries keep a grant, so that they can go on when their caller is gone.
GRANTS = ["kms:CreateGrant", "kms:RetireGrant"]


class EncryptionArgs(TypedDict):
    """What `Encryption` takes."""

    separate_keys: bool
    """Makes a key for each class of data (data, secrets, logs, messages) instead of one for all, so that access can be
    granted and audited by class; each key costs about a dollar a month. Known before deployment."""

    deletion_window_days: NotRequired[pulumi.Input[int]]
    """Days between asking for a key's deletion and losing what it encrypted, 7-30; default 30."""

    tags: NotRequired[pulumi.Input[Mapping[str, pulumi.Input[str]]]]
    """Tags of every resource."""


class Encryption(pulumi.ComponentResource):
    """KMS keys that rotate each year, only serve the services of their class, and never lock the account out."""

    data_key_arn: pulumi.Output[str]
    """ARN of the key of documents, tables, caches and images."""
    secrets_key_arn: pulumi.Output[str]
    """ARN of the key of secrets."""
    logs_key_arn: pulumi.Output[str]
    """ARN of the key of CloudWatch log groups."""
    messages_key_arn: pulumi.Output[str]
    """ARN of the key of queues and topics, through which alarms, budgets and cost alerts may publish."""

    def __init__(self, name: str, args: EncryptionArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Encryption", args, EncryptionArgs)
        window = checked(
            "Encryption", "deletion_window_days", args.get("deletion_window_days", 30), between(7, 30, "days")
        )

        super().__init__("prodkit:index:Encryption", name, {}, opts)

        invoke = pulumi.InvokeOptions(parent=self)
        account_id = aws.get_caller_identity_output(opts=invoke).account_id
        region = aws.get_region_output(opts=invoke).region
        partition = aws.get_partition_output(opts=invoke).partition

        def key(purpose: str, uses: Sequence[DataClass], description: str) -> pulumi.Output[str]:
            policy = pulumi.Output.all(account_id, region, partition).apply(
                lambda known: json.dumps(key_policy(uses, account_id=known[0], region=known[1], partition=known[2]))
            )
            made = aws.kms.Key(
                f"{name}-{purpose}",
                description=description,
                enable_key_rotation=True,
                deletion_window_in_days=window,
                policy=policy,
                tags=args.get("tags"),
                opts=pulumi.ResourceOptions(parent=self),
            )
            # an alias is what people see in the console; the prefix keeps two stacks of an account apart
            aws.kms.Alias(
                f"{name}-{purpose}-alias",
                name_prefix=f"alias/{pulumi.get_stack()}-{name}-{purpose}-",
                target_key_id=made.key_id,
                opts=pulumi.ResourceOptions(parent=self),
            )
            return made.arn

        if args["separate_keys"]:
            self.data_key_arn = key("data", [DataClass.DATA], "Documents, tables, cache and images")
            self.secrets_key_arn = key("secrets", [DataClass.SECRETS], "Secrets")
            self.logs_key_arn = key("logs", [DataClass.LOGS], "Log groups")
            self.messages_key_arn = key("messages", [DataClass.MESSAGES], "Queues and topics")
        else:
            only = key("key", list(DataClass), "Everything that this stack keeps")
            self.data_key_arn = self.secrets_key_arn = self.logs_key_arn = self.messages_key_arn = only

        self.register_outputs(
            {
                "data_key_arn": self.data_key_arn,
                "secrets_key_arn": self.secrets_key_arn,
                "logs_key_arn": self.logs_key_arn,
                "messages_key_arn": self.messages_key_arn,
            }
        )


def key_policy(uses: Sequence[DataClass], *, account_id: str, region: str, partition: str) -> Document:
    """A key's resource policy for classes of data.

    The account's root administers it without a condition, which leaves the decision to IAM and makes a lock-out
    impossible. Nobody uses it directly, whatever IAM allows: services do, for a caller whom IAM allows it
    (`kms:ViaService`), as with the keys that AWS makes itself
    (https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service). Services
    that act on their own have a statement each: log delivery, and what publishes to topics.

    In a key policy the resource `*` means this key.
    """
    root = {"AWS": f"arn:{partition}:iam::{account_id}:root"}
    statements = [statement(ADMINISTRATION, "*", sid="AccountAdministersByIam", principal=root)]
    services = sorted(f"{service}.{region}.amazonaws.com" for use in uses for service in SERVICES[use])
    if services:
        via: Conditions = {"StringEquals": {"kms:ViaService": services}}
        actions = [*USE, *GRANTS] if DataClass.DATA in uses else USE
        statements.append(statement(actions, "*", sid="AccountUsesThroughServices", principal=root, conditions=via))
    if DataClass.LOGS in uses:
        statements.append(_log_groups(account_id, region, partition))
    if DataClass.MESSAGES in uses:
        statements.extend(_publishers(account_id, partition))
    return document(*statements)


def _log_groups(account_id: str, region: str, partition: str) -> Document:
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
    return statement(
        ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"],
        "*",
        sid="LogGroupsOfThisAccount",
        principal={"Service": f"logs.{region}.amazonaws.com"},
        conditions={
            "ArnLike": {"kms:EncryptionContext:aws:logs:arn": f"arn:{partition}:logs:{region}:{account_id}:log-group:*"}
        },
    )


def _publishers(account_id: str, partition: str) -> list[Document]:
    """Who publishes to encrypted topics on their own: without a statement a notification is lost without a trace."""
    this_account = {"StringEquals": {"aws:SourceAccount": account_id}}
    # https://docs.aws.amazon.com/cost-management/latest/userguide/budgets-sns-policy.html
    its_budgets = {**this_account, "ArnLike": {"aws:SourceArn": f"arn:{partition}:budgets::{account_id}:*"}}
    # https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html, "Enable compatibility between event sources"
    publishers: dict[str, tuple[str, Conditions]] = {
        "AlarmsPublish": ("cloudwatch.amazonaws.com", this_account),
        "BudgetsPublish": ("budgets.amazonaws.com", its_budgets),
        "CostAlertsPublish": ("costalerts.amazonaws.com", this_account),
        "TopicsDeliverToQueues": ("sns.amazonaws.com", this_account),
    }
    actions = ["kms:Decrypt", "kms:GenerateDataKey*"]
    return [
        statement(actions, "*", sid=sid, principal={"Service": service}, conditions=conditions)
        for sid, (service, conditions) in publishers.items()
    ]
