"""The OpenAI key's place: a secret without a value, which `make key` fills in; and one for the key that rotates it."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import check_known, checked
from components._policies import Document, grant, statement


class ApiKeyArgs(TypedDict):
    """What `ApiKey` takes."""

    key_arn: pulumi.Input[str]
    """ARN of the KMS key that encrypts the secret."""

    secret_name: NotRequired[pulumi.Input[str]]
    """Name of the secret; default a unique one. A fixed name cannot be used again within `recovery_window_days` after
    the stack was destroyed."""

    recovery_window_days: NotRequired[pulumi.Input[int]]
    """Days in which a deleted secret can be restored: 7-30, or 0 for none; default 30."""

    admin: NotRequired[bool]
    """Make a second secret for a key of OpenAI's Admin API, which rotates the first one and reads OpenAI's bill;
    default false. Known before deployment."""

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
    admin_secret_arn: pulumi.Output[str]
    """ARN of the admin key's secret; empty without `admin`."""
    admin_secret_name: pulumi.Output[str]
    """Name of the admin key's secret, for people; empty without `admin`."""
    admin_policy: pulumi.Output[str]
    """IAM policy (JSON) that allows reading the admin key's secret, and nothing else; empty without `admin`."""
    rotate_policy: pulumi.Output[str]
    """IAM policy (JSON) that allows reading both secrets and changing the first; empty without `admin`."""

    def __init__(self, name: str, args: ApiKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("ApiKey", args, ApiKeyArgs)
        window = checked("ApiKey", "recovery_window_days", args.get("recovery_window_days", 30), _window_problem)

        super().__init__("prodkit:index:ApiKey", name, {}, opts)

        def secret(purpose: str, given: pulumi.Input[str] | None, description: str) -> aws.secretsmanager.Secret:
            return aws.secretsmanager.Secret(
                f"{name}-{purpose}",
                name=given,
                description=description,
                kms_key_id=args["key_arn"],
                recovery_window_in_days=window,
                tags=args.get("tags"),
                opts=pulumi.ResourceOptions(parent=self),
            )

        key = secret("secret", args.get("secret_name"), "OpenAI API key; set it with `make key`")
        region = aws.get_region_output(opts=pulumi.InvokeOptions(parent=self)).region
        via = pulumi.Output.format("secretsmanager.{0}.amazonaws.com", region)

        def use(arns: Sequence[pulumi.Input[str]], actions: Sequence[str], sid: str) -> Document:
            context = {"kms:ViaService": via, "kms:EncryptionContext:SecretARN": arns[0] if len(arns) == 1 else arns}
            return statement(actions, args["key_arn"], sid=sid, conditions={"StringEquals": context})

        self.secret_arn = key.arn
        self.secret_name = key.name
        self.read_policy = grant(
            statement(["secretsmanager:GetSecretValue"], key.arn, sid="ReadOpenAIKey"),
            use([key.arn], ["kms:Decrypt"], "DecryptOpenAIKey"),
        )
        self.admin_secret_arn = self.admin_secret_name = pulumi.Output.from_input("")
        self.admin_policy = self.rotate_policy = pulumi.Output.from_input("")
        if args.get("admin", False):
            admin = secret("admin", None, "Key of OpenAI's Admin API, for rotation; set it with `make key ADMIN=1`")
            self.admin_secret_arn = admin.arn
            self.admin_secret_name = admin.name
            self.admin_policy = grant(
                statement(["secretsmanager:GetSecretValue"], admin.arn, sid="ReadAdminKey"),
                use([admin.arn], ["kms:Decrypt"], "DecryptAdminKey"),
            )
            self.rotate_policy = grant(
                statement(["secretsmanager:GetSecretValue"], [key.arn, admin.arn], sid="ReadKeys"),
                statement(
                    ["secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"],
                    key.arn,
                    sid="ReplaceOpenAIKey",
                ),
                use([key.arn, admin.arn], ["kms:Decrypt", "kms:GenerateDataKey"], "UseTheirKmsKey"),
            )
        self.register_outputs(
            {
                "secret_arn": self.secret_arn,
                "secret_name": self.secret_name,
                "read_policy": self.read_policy,
                "admin_secret_arn": self.admin_secret_arn,
                "admin_secret_name": self.admin_secret_name,
                "admin_policy": self.admin_policy,
                "rotate_policy": self.rotate_policy,
            }
        )


def _window_problem(days: float) -> str | None:
    # https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_DeleteSecret.html
    return (
        None if days == 0 or (7 <= days <= 30 and days == int(days)) else "is not allowed; choose 0, or 7 to 30 days."
    )
