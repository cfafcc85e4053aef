"""Image: a private repository and the project that builds the app's image on AWS, so that no laptop needs Docker."""

import json
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import between, check_known, checked, choice
from components._bundle import context_files, context_hash
from components._fargate import Architecture
from components._policies import grant, pull_images, service_trust, statement, use_key

BUILD_MINUTES = 20  # a cold build takes about 3; past this something hangs
LOG_DAYS = 30
# Curated images by architecture: https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-available.html
_BUILDERS = {
    Architecture.ARM64: ("ARM_CONTAINER", "aws/codebuild/amazonlinux-aarch64-standard:3.0"),
    Architecture.X86_64: ("LINUX_CONTAINER", "aws/codebuild/amazonlinux-x86_64-standard:5.0"),
}
# The base image is resolved to a digest inside the build and passed on, so one build uses one base throughout.
_BUILDSPEC = {
    "version": 0.2,
    "phases": {
        "pre_build": {
            "commands": [
                'aws ecr get-login-password | docker login --username AWS --password-stdin "${IMAGE_REPO_URL%%/*}"',
                "BASE_TAG=$(sed -n 's/^ARG BASE=//p' Dockerfile)",
                'docker pull --quiet "$BASE_TAG"',
                "BASE=$(docker inspect --format '{{index .RepoDigests 0}}' \"$BASE_TAG\")",
            ]
        },
        "build": {
            "commands": [
                'docker build --build-arg BASE="$BASE" --label base="$BASE" --tag "$IMAGE_REPO_URL:$IMAGE_TAG" .',
                'docker push --quiet "$IMAGE_REPO_URL:$IMAGE_TAG"',
            ]
        },
    },
}


class ImageArgs(TypedDict):
    """What an Image is made from."""

    source_path: str
    """Folder with the Dockerfile and everything it copies; known before deployment."""
    source_bucket: pulumi.Input[str]
    """Bucket that the source bundle is uploaded to."""
    source_bucket_arn: pulumi.Input[str]
    """ARN of that bucket; the build may read the bundle and nothing else in it."""
    key_arn: pulumi.Input[str]
    """KMS key of images and source bundle."""
    logs_key_arn: pulumi.Input[str]
    """KMS key of the build's log group."""
    architecture: NotRequired[Architecture]
    """Processor the image runs on; known before deployment; default `ARM64`."""
    keep_images: NotRequired[pulumi.Input[int]]
    """Newest images kept, 2-1000; older ones expire; default 20."""
    force_destroy: NotRequired[bool]
    """Whether destroying the stack also deletes the repository's images; default False. Risk: none to go back to."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class Image(pulumi.ComponentResource):
    """An ECR repository with immutable tags and a CodeBuild project that builds `source_path` into it.

    Nothing is built here: the program starts a build (`dynamic.ImageBuild`) when `image_tag`, the source hash, is new.
    """

    repository_name: pulumi.Output[str]
    """Name of the ECR repository."""
    repository_url: pulumi.Output[str]
    """Address of the repository, without tag."""
    build_project_name: pulumi.Output[str]
    """CodeBuild project that reads IMAGE_REPO_NAME and IMAGE_TAG and pushes that image."""
    pull_policy: pulumi.Output[str]
    """IAM policy (JSON) of whoever starts tasks from this repository: pulling its images, and nothing else."""
    image_tag: pulumi.Output[str]
    """Hash of the build context: the tag of the image that this source makes."""

    def __init__(self, name: str, args: ImageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Image", args, ImageArgs)
        architecture = choice("Image", "architecture", args.get("architecture", Architecture.ARM64), Architecture)
        keep_images = checked("Image", "keep_images", args.get("keep_images", 20), between(2, 1000, "images"))
        files = context_files(args["source_path"])
        container_type, builder = _BUILDERS[architecture]
        tag = context_hash(files, architecture.value, json.dumps(_BUILDSPEC))
        super().__init__("prodkit:index:Image", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        tags = args.get("tags", {})

        repository = aws.ecr.Repository(
            f"{name}-repo",
            name=pulumi.Output.concat(pulumi.get_project(), "-", pulumi.get_stack(), "/", name),
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration={"scan_on_push": True},
            encryption_configurations=[{"encryption_type": "KMS", "kms_key": args["key_arn"]}],
            force_delete=args.get("force_destroy", False),
            tags=tags,
            opts=child,
        )
        aws.ecr.LifecyclePolicy(
            f"{name}-expiry",
            repository=repository.name,
            policy=pulumi.Output.from_input(keep_images).apply(_expiry),
            opts=child,
        )
        source = aws.s3.BucketObjectv2(
            f"{name}-source",
            bucket=args["source_bucket"],
            key=f"source/{name}-{tag}.zip",
            source=pulumi.AssetArchive({path: pulumi.FileAsset(str(file)) for path, file in files.items()}),
            tags=tags,
            opts=child,
        )
        logs = aws.cloudwatch.LogGroup(
            f"{name}-build", retention_in_days=LOG_DAYS, kms_key_id=args["logs_key_arn"], tags=tags, opts=child
        )
        role, policy = self._build_role(name, args, repository, source, logs)
        project = aws.codebuild.Project(
            f"{name}-build",
            description="Builds the app's image when its source changed",
            service_role=role.arn,
            build_timeout=BUILD_MINUTES,
            artifacts={"type": "NO_ARTIFACTS"},
            environment={
                "type": container_type,
                "image": builder,
                "compute_type": "BUILD_GENERAL1_SMALL",
                # docker build needs a Docker daemon, which CodeBuild only runs in privileged mode
                "privileged_mode": True,
                "environment_variables": [{"name": "IMAGE_REPO_URL", "value": repository.repository_url}],
            },
            source={
                "type": "S3",
                "location": pulumi.Output.concat(args["source_bucket"], "/", source.key),
                "buildspec": json.dumps(_BUILDSPEC),
            },
            logs_config={"cloudwatch_logs": {"status": "ENABLED", "group_name": logs.name}},
            tags=tags,
            # a build may start as soon as the project exists, and without the policy it would fail
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )

        self.repository_name = repository.name
        self.repository_url = repository.repository_url
        self.build_project_name = project.name
        self.image_tag = pulumi.Output.from_input(tag)
        self.pull_policy = pull_images(repository.arn)
        self.register_outputs(
            {
                "repository_name": self.repository_name,
                "repository_url": self.repository_url,
                "build_project_name": self.build_project_name,
                "image_tag": self.image_tag,
                "pull_policy": self.pull_policy,
            }
        )

    def _build_role(
        self,
        name: str,
        args: ImageArgs,
        repository: aws.ecr.Repository,
        source: aws.s3.BucketObjectv2,
        logs: aws.cloudwatch.LogGroup,
    ) -> tuple[aws.iam.Role, aws.iam.RolePolicy]:
        child = pulumi.ResourceOptions(parent=self)
        account = aws.get_caller_identity_output(opts=pulumi.InvokeOptions(parent=self)).account_id
        region = aws.get_region_output(opts=pulumi.InvokeOptions(parent=self)).region
        policy = grant(
            statement(["logs:CreateLogStream", "logs:PutLogEvents"], pulumi.Output.concat(logs.arn, ":*")),
            statement(
                ["s3:GetObject", "s3:GetObjectVersion"],
                pulumi.Output.concat(args["source_bucket_arn"], "/", source.key),
            ),
            use_key(args["key_arn"], [pulumi.Output.concat("s3.", region, ".amazonaws.com")], write=False),
            # GetAuthorizationToken has no resource-level permission (Service Authorization Reference, ECR).
            statement(["ecr:GetAuthorizationToken"], "*"),
            statement(
                [
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchGetImage",
                    "ecr:CompleteLayerUpload",
                    "ecr:GetDownloadUrlForLayer",
                    "ecr:InitiateLayerUpload",
                    "ecr:PutImage",
                    "ecr:UploadLayerPart",
                ],
                repository.arn,
            ),
        )
        role = aws.iam.Role(
            f"{name}-build",
            description="CodeBuild builds and pushes the app's image",
            assume_role_policy=pulumi.Output.json_dumps(service_trust("codebuild.amazonaws.com", account)),
            tags=args.get("tags", {}),
            opts=child,
        )
        return role, aws.iam.RolePolicy(f"{name}-build", role=role.name, policy=policy, opts=child)


def _expiry(keep: int) -> str:
    """ECR lifecycle policy that keeps the newest images."""
    rule = {
        "rulePriority": 1,
        "description": f"Keep the newest {int(keep)} images",
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": int(keep)},
        "action": {"type": "expire"},
    }
    return json.dumps({"rules": [rule]})
