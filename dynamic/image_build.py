"""ImageBuild: starts the image's CodeBuild project when the source changed, waits, and returns the image by digest.

A dynamic provider's inputs and outputs are Pulumi state, so nothing secret passes through here; AWS credentials come
from boto3's usual chain.
"""

import time
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

POLL_SECONDS = 5
# CodeBuild itself stops a build at the project's time-out (components/image.py, 20 minutes); queueing comes before.
GIVE_UP_SECONDS = 45 * 60


class ImageBuildArgs(TypedDict):
    """What an ImageBuild is made from."""

    project_name: pulumi.Input[str]
    """CodeBuild project that builds and pushes; it reads IMAGE_REPO_NAME and IMAGE_TAG."""
    repository_name: pulumi.Input[str]
    """ECR repository that the image appears in."""
    repository_url: pulumi.Input[str]
    """The repository's address, without tag."""
    image_tag: pulumi.Input[str]
    """Hash of the source: an image with this tag is built once and then only looked up."""
    region: pulumi.Input[str]
    """AWS region of project and repository."""
    poll_seconds: NotRequired[pulumi.Input[float]]
    """Seconds between two looks at a running build; default 5."""


class BuildError(Exception):
    """The image could not be built; the text says why and where the log is."""


def build_image(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs for these inputs, after a build when ECR does not have the tag yet.

    Raises:
        BuildError: with the failed phase's own message and the address of its log.
    """
    import boto3  # the provider runs in a process of its own; the program that only registers needs no client

    session = boto3.session.Session(region_name=str(inputs["region"]))
    ecr, codebuild = session.client("ecr"), session.client("codebuild")
    repository, tag = str(inputs["repository_name"]), str(inputs["image_tag"])
    digest = find_digest(ecr, repository, tag)
    if digest is None:
        started = codebuild.start_build(
            projectName=str(inputs["project_name"]),
            environmentVariablesOverride=[
                {"name": "IMAGE_REPO_NAME", "value": repository, "type": "PLAINTEXT"},
                {"name": "IMAGE_TAG", "value": tag, "type": "PLAINTEXT"},
            ],
        )
        # Two `up`s at once give the same token to the same tag, and ECR's immutable tags let one of them push.
        _wait(codebuild, started["build"]["id"], float(inputs.get("poll_seconds") or POLL_SECONDS))
        digest = find_digest(ecr, repository, tag)
        if digest is None:
            raise BuildError(f"build of {repository}:{tag} succeeded but pushed no such image; see its log")
    return {**inputs, "digest": digest, "image_uri": f"{inputs['repository_url']}@{digest}"}


def find_digest(ecr: Any, repository: str, tag: str) -> str | None:
    """The digest of a tag (`sha256:...`), or None when the repository has no such tag."""
    answer = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": tag}])
    images = answer.get("images", [])
    return str(images[0]["imageId"]["imageDigest"]) if images else None


def _wait(codebuild: Any, build_id: str, poll_seconds: float) -> None:
    started, phase = time.monotonic(), ""
    while True:
        build = codebuild.batch_get_builds(ids=[build_id])["builds"][0]
        if build.get("currentPhase", "") != phase:
            phase = build.get("currentPhase", "")
            # The engine shows what a provider prints.
            print(f"image build: {phase.lower()} ({time.monotonic() - started:.0f} s)", flush=True)
        if build["buildStatus"] == "SUCCEEDED":
            return
        if build["buildStatus"] != "IN_PROGRESS":
            raise BuildError(failure(build))
        if time.monotonic() - started > GIVE_UP_SECONDS:
            raise BuildError(f"build {build_id} is still running after {GIVE_UP_SECONDS // 60} minutes; see its log")
        time.sleep(poll_seconds)


def failure(build: Mapping[str, Any]) -> str:
    """One message from a CodeBuild build: its status, the failed phase's context and the log's address."""
    reasons = [
        f"{phase['phaseType'].lower()}: {context['message']}"
        for phase in build.get("phases", [])
        for context in phase.get("contexts", [])
        if context.get("message")
    ]
    log = build.get("logs", {}).get("deepLink") or build.get("logs", {}).get("groupName") or "the CodeBuild console"
    reason = "; ".join(reasons) or "no reason given"
    return f"image build {build['id']} ended as {build['buildStatus']}: {reason} (log: {log})"


class _Provider(ResourceProvider):
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(id_=f"{props['repository_name']}:{props['image_tag']}", outs=build_image(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        watched = ImageBuildArgs.__annotations__.keys() - {"poll_seconds"}
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in watched))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(outs=build_image(_news))


class ImageBuild(Resource):
    """The app's image, built on AWS when its source changed. Deleting it deletes no image."""

    image_uri: pulumi.Output[str]
    """The image by digest: `<repository url>@sha256:...`."""
    digest: pulumi.Output[str]
    """`sha256:...` of the image's manifest."""

    def __init__(self, name: str, args: ImageBuildArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(_Provider(), name, {**args, "image_uri": None, "digest": None}, opts)
