"""ModelConfig: which models, limits and prices the app uses, deployed and rolled back like code (AWS AppConfig)."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import check_known, choice
from components._policies import document, grant, statement

HOSTED_LIMIT_BYTES = 1024 * 1024  # AppConfig quota "Configuration size limit", 1 MB by default for hosted documents


class DeploymentStrategy(StrEnum):
    """How fast a new document reaches the fleet."""

    ALL_AT_ONCE = "all_at_once"
    """Every task at its next poll; no bake time."""
    CANARY = "canary"
    """10 % at first, everyone after 20 minutes, watched for 10 more."""
    LINEAR = "linear"
    """20 % every 6 minutes, watched for 30 minutes."""


class ModelConfigArgs(TypedDict):
    """What a ModelConfig is made from."""

    document: str
    """The model configuration as JSON; known before deployment so that a bad one stops the preview."""
    schema: str
    """JSON Schema (draft-04, the one AppConfig reads) that the document must satisfy; JSON text."""
    strategy: NotRequired[DeploymentStrategy]
    """How a new document is rolled out; default `all_at_once`."""
    alarm_arns: NotRequired[Sequence[pulumi.Input[str]]]
    """CloudWatch alarms that roll a document back while it is being deployed or baking; default none."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


# Duration and bake in minutes, growth in percent. Two are AWS's predefined strategies, written out so that the plan
# shows them; `all_at_once` has no bake, because a stack without alarms would only wait.
_STRATEGIES: dict[DeploymentStrategy, tuple[int, str, float, int]] = {
    DeploymentStrategy.ALL_AT_ONCE: (0, "LINEAR", 100.0, 0),
    DeploymentStrategy.CANARY: (20, "EXPONENTIAL", 10.0, 10),
    DeploymentStrategy.LINEAR: (30, "LINEAR", 20.0, 30),
}


class ModelConfig(pulumi.ComponentResource):
    """A versioned model configuration document that running tasks poll, with a schema check and alarm rollback.

    Replaced documents are deleted after the new one is deployed (AppConfig refuses to delete a profile that still has
    versions, pulumi-aws #5675, so keeping them would break `pulumi destroy`): the history is the repository's.
    """

    application_id: pulumi.Output[str]
    """AppConfig application id."""
    environment_id: pulumi.Output[str]
    """AppConfig environment id."""
    profile_id: pulumi.Output[str]
    """AppConfig configuration profile id."""
    read_policy: pulumi.Output[str]
    """IAM policy (JSON) that lets a task poll this document and nothing else."""

    def __init__(self, name: str, args: ModelConfigArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("ModelConfig", args, ModelConfigArgs)
        content = _checked_json("document", args["document"])
        schema = _checked_json("schema", args["schema"])
        strategy = choice(
            "ModelConfig", "strategy", args.get("strategy", DeploymentStrategy.ALL_AT_ONCE), DeploymentStrategy
        )
        duration, growth, factor, bake = _STRATEGIES[strategy]
        super().__init__("prodkit:index:ModelConfig", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        tags = args.get("tags", {})

        application = aws.appconfig.Application(
            f"{name}-app", description="Models, limits and prices of the app", tags=tags, opts=child
        )
        environment = aws.appconfig.Environment(
            f"{name}-env",
            application_id=application.id,
            monitors=self._monitors(name, args.get("alarm_arns", ()), tags),
            tags=tags,
            opts=child,
        )
        profile = aws.appconfig.ConfigurationProfile(
            f"{name}-profile",
            application_id=application.id,
            location_uri="hosted",
            validators=[{"type": "JSON_SCHEMA", "content": schema}],
            tags=tags,
            opts=child,
        )
        version = aws.appconfig.HostedConfigurationVersion(
            f"{name}-document",
            application_id=application.id,
            configuration_profile_id=profile.configuration_profile_id,
            content=content,
            content_type="application/json",
            opts=child,
        )
        rollout = aws.appconfig.DeploymentStrategy(
            f"{name}-strategy",
            deployment_duration_in_minutes=duration,
            growth_type=growth,
            growth_factor=factor,
            final_bake_time_in_minutes=bake,
            replicate_to="NONE",
            tags=tags,
            opts=child,
        )
        aws.appconfig.Deployment(
            f"{name}-deployment",
            application_id=application.id,
            environment_id=environment.environment_id,
            configuration_profile_id=profile.configuration_profile_id,
            configuration_version=version.version_number.apply(str),
            deployment_strategy_id=rollout.id,
            tags=tags,
            opts=child,
        )

        self.application_id = application.id
        self.environment_id = environment.environment_id
        self.profile_id = profile.configuration_profile_id
        polled = pulumi.Output.format(
            "{0}/environment/{1}/configuration/{2}", application.arn, self.environment_id, self.profile_id
        )
        self.read_policy = grant(
            statement(["appconfig:StartConfigurationSession", "appconfig:GetLatestConfiguration"], polled)
        )
        self.register_outputs(
            {
                "application_id": self.application_id,
                "environment_id": self.environment_id,
                "profile_id": self.profile_id,
                "read_policy": self.read_policy,
            }
        )

    def _monitors(
        self, name: str, alarm_arns: Sequence[pulumi.Input[str]], tags: Mapping[str, pulumi.Input[str]]
    ) -> list[aws.appconfig.EnvironmentMonitorArgsDict]:
        """The alarms that AppConfig watches, with the role it reads them by; no role when there is nothing to watch."""
        if not alarm_arns:
            return []
        child = pulumi.ResourceOptions(parent=self)
        role = aws.iam.Role(
            f"{name}-watch",
            description="AppConfig reads the alarms that roll a document back",
            # No source condition: AppConfig's page for this role shows none; one it does not send would lock it out.
            assume_role_policy=json.dumps(
                document(
                    {"Effect": "Allow", "Principal": {"Service": "appconfig.amazonaws.com"}, "Action": "sts:AssumeRole"}
                )
            ),
            tags=tags,
            opts=child,
        )
        aws.iam.RolePolicy(
            f"{name}-watch-alarms",
            role=role.name,
            # DescribeAlarms has no resource-level permission (Service Authorization Reference, CloudWatch).
            policy=json.dumps(document(statement(["cloudwatch:DescribeAlarms"], "*"))),
            opts=child,
        )
        return [{"alarm_arn": arn, "alarm_role_arn": role.arn} for arn in alarm_arns]


def _checked_json(field: str, text: str) -> str:
    """The text in compact form, so that layout alone never deploys a new version."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"ModelConfig: {field} is not JSON ({error}); pass json.dumps(...) of the document.") from None
    if not isinstance(value, dict):
        raise ValueError(f"ModelConfig: {field} is a JSON {type(value).__name__}; pass a JSON object.")
    compact = json.dumps(value, sort_keys=True, separators=(",", ":"))
    if len(compact.encode()) > HOSTED_LIMIT_BYTES:
        raise ValueError(
            f"ModelConfig: {field} is over {HOSTED_LIMIT_BYTES} bytes, AppConfig's limit; make it smaller."
        )
    return compact
