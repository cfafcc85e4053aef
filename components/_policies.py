"""IAM documents as data: every function returns plain dicts whose leaves may be Pulumi outputs.

Turn one into text with a single `pulumi.Output.json_dumps(document(...))`, or `json.dumps` when all is plain.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

Text = pulumi.Input[str]
Document = dict[str, Any]
Conditions = Mapping[str, Mapping[str, Any]]


def statement(
    actions: Sequence[str],
    resources: Text | Sequence[Text],
    *,
    sid: str | None = None,
    effect: str = "Allow",
    principal: str | Mapping[str, Any] | None = None,
    conditions: Conditions | None = None,
) -> Document:
    """One statement. `principal` belongs to resource policies only; `conditions` is operator -> key -> value."""
    made: Document = {"Effect": effect, "Action": list(actions), "Resource": resources}
    if sid is not None:
        made = {"Sid": sid, **made}
    if principal is not None:
        made["Principal"] = principal
    if conditions:
        made["Condition"] = {operator: dict(keys) for operator, keys in conditions.items()}
    return made


def document(*statements: Document) -> Document:
    """A policy document of the current language version."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def grant(*statements: Document) -> pulumi.Output[str]:
    """The text of an identity policy whose leaves may be outputs."""
    return pulumi.Output.json_dumps(document(*statements))


def service_trust(service: str, account_id: Text, source_arns: Text | Sequence[Text] | None = None) -> Document:
    """A role trust policy for one AWS service acting for this account only (no confused deputy).

    Args:
        service: service principal such as `ecs-tasks.amazonaws.com`.
        account_id: the account whose resources may make the service take the role.
        source_arns: ARN patterns of those resources; None when the service gives no source ARN.
    """
    conditions: dict[str, dict[str, Any]] = {"StringEquals": {"aws:SourceAccount": account_id}}
    if source_arns is not None:
        conditions["ArnLike"] = {"aws:SourceArn": source_arns}
    trusted = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": conditions,
    }
    return document(trusted)


def deny_without_tls(actions: Sequence[str], resources: Text | Sequence[Text]) -> Document:
    """The statement of a resource policy that refuses everyone who does not use TLS.

    The principal is `*` because a denial must reach everybody; it allows nothing.
    """
    return statement(
        actions,
        resources,
        sid="DenyWithoutTls",
        effect="Deny",
        principal="*",
        conditions={"Bool": {"aws:SecureTransport": "false"}},
    )


def use_key(key_arn: Text, via: Sequence[Text], *, write: bool = True) -> Document:
    """The identity statement that lets a principal use a KMS key through named services, and not directly.

    Args:
        key_arn: the key.
        via: `kms:ViaService` values such as `s3.us-east-1.amazonaws.com`.
        write: also encrypt; False when the principal only reads.
    """
    actions = ["kms:Decrypt", "kms:GenerateDataKey"] if write else ["kms:Decrypt"]
    return statement(actions, key_arn, sid="UseKey", conditions={"StringEquals": {"kms:ViaService": list(via)}})


def pull_images(repository_arn: Text) -> pulumi.Output[str]:
    """The text of the identity policy of whoever starts tasks from one ECR repository: pulling, and nothing else."""
    return grant(
        # GetAuthorizationToken has no resource-level permission (Service Authorization Reference, ECR).
        statement(["ecr:GetAuthorizationToken"], "*"),
        statement(
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], repository_arn
        ),
    )


def log_delivery(bucket_arn: pulumi.Output[str], account_id: Text) -> list[Document]:
    """The statements of a log bucket's policy: load balancers and S3 of this account write access logs, nobody reads.

    Load balancers write under `AWSLogs/` after any prefix, S3 under `s3/`.
    """
    prefix = pulumi.Output.format
    return [
        # https://docs.aws.amazon.com/elasticloadbalancing/latest/application/enable-access-logging.html
        statement(
            ["s3:PutObject"],
            [
                prefix("{0}/AWSLogs/{1}/*", bucket_arn, account_id),
                prefix("{0}/*/AWSLogs/{1}/*", bucket_arn, account_id),
            ],
            sid="LoadBalancersWrite",
            principal={"Service": "logdelivery.elasticloadbalancing.amazonaws.com"},
        ),
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/enable-server-access-logging.html
        statement(
            ["s3:PutObject"],
            prefix("{0}/s3/*", bucket_arn),
            sid="BucketsWrite",
            principal={"Service": "logging.s3.amazonaws.com"},
            conditions={"StringEquals": {"aws:SourceAccount": account_id}},
        ),
    ]


def account_only(service: str, account_id: Text, region: Text) -> Document:
    """The policy of a gateway endpoint (`s3` or `dynamodb`): only what this account owns can be reached through it.

    So a task that was broken into cannot copy documents to a stranger's bucket on this way. Principal and resource
    are `*` because the condition decides; image layers are the exception, which lie in buckets of ECR's
    (https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html#ecr-minimum-s3-perms).
    """
    own = statement(
        [f"{service}:*"],
        "*",
        sid="WhatThisAccountOwns",
        principal="*",
        conditions={"StringEquals": {"aws:ResourceAccount": account_id}},
    )
    if service != "s3":
        return document(own)
    layers = statement(
        ["s3:GetObject"],
        pulumi.Output.format("arn:aws:s3:::prod-{0}-starport-layer-bucket/*", region),
        sid="ImageLayers",
        principal="*",
    )
    return document(own, layers)


def own_account(service: str, account_id: Text) -> Document:
    """The policy of an interface endpoint: this account's identities, and only what this account owns.

    So neither can a stranger's credentials carry data out on this way, nor ours to a stranger. Of the registry the
    second half is left out: a login (GetAuthorizationToken) is about no resource, and base images may be another's
    (https://github.com/aws-samples/data-perimeter-policy-examples, vpc_endpoint_policies).
    """
    account = {"aws:PrincipalAccount": account_id}
    if not service.startswith("ecr."):
        account["aws:ResourceAccount"] = account_id
    allowed = statement(["*"], "*", sid="ThisAccount", principal="*", conditions={"StringEquals": account})
    return document(allowed)


def protect_tasks(cluster_arn: pulumi.Output[str]) -> Document:
    """The identity statement that lets tasks of a cluster ask ECS not to stop them while they work.

    The agent inside of the task calls ECS with the task's own role
    (https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html).
    """
    tasks = cluster_arn.apply(lambda arn: arn.replace(":cluster/", ":task/", 1) + "/*")
    return statement(["ecs:UpdateTaskProtection"], tasks, sid="HoldItself")
