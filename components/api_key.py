"""The OpenAI key's place: a secret without a value, which `make key` fills in."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import check_known, checked
from components._policies import grant, statement


class ApiKeyArgs(TypedDict):
    """What `ApiKey` takes."""

    key_arn: pulumi.Input[str]
    """ARN of the KMS key that encrypts the secret."""

    secret_name: NotRequired[pulumi.Input[str]]
    """Name of the secret; default a unique one. A fixed name cannot be used again within `recovery_window_days` after
    the stack was destroyed."""

    recovery_window_days: NotRequired[pulumi.Input[int]]
    """Days in which a deleted secret can be restored: 7-30, or 0 for none; default 30."""

    tags: NotRequired[pulumi.Input[Mapping[str, pulumi.Input[str]]]]
    """Tags of every resource."""


class ApiKey(pulumi.ComponentResource):
    """A Secrets Manager secret for the OpenAI key. Its value is never an input, so it is never in Pulumi's state."""

    secret_arn: pulumi.Output[str]
    """ARN of the secret; what the app is given instead of the key."""
    secret_name: pulumi.Output[str]
    """Name of the secret, for people."""
    read_policy: pulumi.Output[str]
    """IAM policy (JSON) that allows reading the secret, and nothing else."""

    def __init__(self, name: str, args: ApiKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("ApiKey", args, ApiKeyArgs)
        window = checked("ApiKey", "recovery_window_days", args.get("recovery_window_days", 30), _window_problem)

        super().__init__("prodkit:index:ApiKey", name, {}, opts)

        secret = aws.secretsmanager.Secret(
            f"{name}-secret",
            name=args.get("secret_name"),
            description="OpenAI API key; set it with `make key`",
            kms_key_id=args["key_arn"],
            recovery_window_in_days=window,
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        region = aws.get_region_output(opts=pulumi.InvokeOptions(parent=self)).region

        self.secret_arn = secret.arn
        self.secret_name = secret.name
        self.read_policy = grant(
            statement(["secretsmanager:GetSecretValue"], secret.arn, sid="ReadOpenAIKey"),
            statement(
                ["kms:Decrypt"],
                args["key_arn"],
                sid="DecryptOpenAIKey",
                conditions={
                    "StringEquals": {
                        "kms:ViaService": pulumi.Output.format("secretsmanager.{0}.amazonaws.com", region),
                        "kms:EncryptionContext:SecretARN": secret.arn,
                    }
                },
            ),
        )
        self.register_outputs(
            {"secret_arn": self.secret_arn, "secret_name": self.secret_name, "read_policy": self.read_policy}
        )


def _window_problem(days: float) -> str | None:
    # https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_DeleteSecret.html
    return (
        None if days == 0 or (7 <= days <= 30 and days == int(days)) else "is not allowed; choose 0, or 7 to 30 days."
    )
