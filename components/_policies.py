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
