"""ImageBuild against an emulated ECR, with the outcome of a CodeBuild build played by the test."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from dynamic import image_build
from dynamic.image_build import BuildError, _Provider, build_image, failure

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INPUTS = {
    "project_name": "build",
    "repository_name": "prodkit-test/app",
    "repository_url": "123456789012.dkr.ecr.us-east-1.amazonaws.com/prodkit-test/app",
    "image_tag": "abc123",
    "region": "us-east-1",
    "poll_seconds": 0.001,
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        boto3.client("ecr", "us-east-1").create_repository(repositoryName=INPUTS["repository_name"])
        yield


class Builds:
    """CodeBuild as it answers: a build is looked at twice while it runs, then it ends as the test said."""

    def __init__(self, ends_as: str, pushes: bool) -> None:
        self.ends_as, self.pushes = ends_as, pushes
        self.started: list[dict[str, Any]] = []
        self.looks = 0

    def start_build(self, **request: Any) -> dict[str, Any]:
        self.started.append(request)
        return {"build": {"id": "build:1"}}

    def batch_get_builds(self, ids: list[str]) -> dict[str, Any]:
        assert ids == ["build:1"]
        self.looks += 1
        if self.looks < 3:
            return {"builds": [{"id": "build:1", "buildStatus": "IN_PROGRESS", "currentPhase": f"PHASE{self.looks}"}]}
        if self.pushes:
            push("abc123")
        failed = {"phaseType": "BUILD", "contexts": [{"message": "exit status 1"}]}
        build = {"id": "build:1", "buildStatus": self.ends_as, "currentPhase": "COMPLETED", "phases": [failed]}
        return {"builds": [build]}


def push(tag: str) -> str:
    layer = {"mediaType": "x", "size": 1, "digest": "sha256:" + hashlib.sha256(tag.encode()).hexdigest()}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": []})
    answer = boto3.client("ecr", "us-east-1").put_image(
        repositoryName=str(INPUTS["repository_name"]), imageManifest=manifest, imageTag=tag
    )
    return str(answer["image"]["imageId"]["imageDigest"])


def _with(monkeypatch: pytest.MonkeyPatch, builds: Builds) -> None:
    real = boto3.session.Session.client

    def client(self: boto3.session.Session, name: str, *args: Any, **kwargs: Any) -> Any:
        return builds if name == "codebuild" else real(self, name, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(boto3.session.Session, "client", client)


def test_an_image_that_exists_is_not_built_again(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = Builds("SUCCEEDED", pushes=False)
    _with(monkeypatch, builds)
    digest = push("abc123")
    assert build_image(INPUTS)["image_uri"] == f"{INPUTS['repository_url']}@{digest}"
    assert builds.started == []


def test_new_source_is_built_with_progress_and_returned_by_digest(
    aws: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builds = Builds("SUCCEEDED", pushes=True)
    _with(monkeypatch, builds)
    outputs = build_image(INPUTS)
    assert outputs["digest"].startswith("sha256:")
    assert outputs["image_uri"] == f"{INPUTS['repository_url']}@{outputs['digest']}"
    (started,) = builds.started
    sent = {v["name"]: v["value"] for v in started["environmentVariablesOverride"]}
    assert sent == {"IMAGE_REPO_NAME": INPUTS["repository_name"], "IMAGE_TAG": "abc123"}
    shown = capsys.readouterr().out
    assert "image build: phase1" in shown
    assert "image build: completed" in shown


def test_a_failed_build_says_why(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, Builds("FAILED", pushes=False))
    with pytest.raises(BuildError, match="ended as FAILED: build: exit status 1"):
        build_image(INPUTS)


def test_a_build_that_pushed_nothing_is_not_a_success(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, Builds("SUCCEEDED", pushes=False))
    with pytest.raises(BuildError, match="pushed no such image"):
        build_image(INPUTS)


def test_a_build_that_never_ends_is_given_up(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, Builds("SUCCEEDED", pushes=True))
    monkeypatch.setattr(image_build, "GIVE_UP_SECONDS", -1)
    with pytest.raises(BuildError, match="still running"):
        build_image(INPUTS)


def test_only_a_changed_source_or_place_starts_a_build() -> None:
    provider = _Provider()
    state = {**INPUTS, "digest": "sha256:0", "image_uri": "x@sha256:0"}
    assert provider.diff("id", state, dict(INPUTS)).changes is False
    assert provider.diff("id", state, {**INPUTS, "poll_seconds": 9}).changes is False
    assert provider.diff("id", state, {**INPUTS, "image_tag": "def"}).changes is True
    assert provider.diff("id", state, {**INPUTS, "region": "us-east-2"}).changes is True


def test_a_failure_without_reasons_still_names_the_build_and_its_log() -> None:
    assert failure({"id": "b:1", "buildStatus": "TIMED_OUT", "logs": {"deepLink": "https://console"}}) == (
        "image build b:1 ended as TIMED_OUT: no reason given (log: https://console)"
    )
