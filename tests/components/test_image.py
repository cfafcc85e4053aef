import json
from pathlib import Path
from typing import Any

import pytest

from components._fargate import Architecture
from components.image import Image, ImageArgs
from tests.components.recorder import Record, Recording


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("ARG BASE=python:3\nFROM ${BASE}\n")
    (tmp_path / "main.py").write_text("print()\n")
    return tmp_path


def _image(record: Record, source: Path, **changes: Any) -> Recording:
    args: dict[str, Any] = {
        "source_path": str(source),
        "source_bucket": "data",
        "source_bucket_arn": "arn:aws:s3:::data",
        "key_arn": "arn:aws:kms:us-east-1:123456789012:key/data",
        "logs_key_arn": "arn:aws:kms:us-east-1:123456789012:key/logs",
        **changes,
    }
    given = ImageArgs(**args)  # type: ignore[typeddict-item]  # wrong ones are given on purpose
    return record(lambda: Image("app", given))


def test_images_are_immutable_scanned_encrypted_and_expire(record: Record, source: Path) -> None:
    made = _image(record, source)
    repository = made.one("aws:ecr/repository:Repository").inputs
    assert repository["name"] == "prodkit-test/app"
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    assert repository["encryptionConfigurations"] == [
        {"encryptionType": "KMS", "kmsKey": "arn:aws:kms:us-east-1:123456789012:key/data"}
    ]
    assert repository["forceDelete"] is False
    rule = made.one("aws:ecr/lifecyclePolicy:LifecyclePolicy").json("policy")["rules"][0]
    assert rule["selection"] == {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 20}


@pytest.mark.parametrize(
    ("architecture", "container"), [(Architecture.ARM64, "ARM_CONTAINER"), (Architecture.X86_64, "LINUX_CONTAINER")]
)
def test_the_build_runs_on_the_processor_the_image_is_for(
    record: Record, source: Path, architecture: Architecture, container: str
) -> None:
    project = _image(record, source, architecture=architecture).one("aws:codebuild/project:Project").inputs
    assert project["environment"]["type"] == container
    assert ("aarch64" in project["environment"]["image"]) == (architecture is Architecture.ARM64)


def test_the_build_uses_the_variables_of_the_docker_sample_and_a_base_by_digest(record: Record, source: Path) -> None:
    project = _image(record, source).one("aws:codebuild/project:Project").inputs
    commands = [c for phase in json.loads(project["source"]["buildspec"])["phases"].values() for c in phase["commands"]]
    text = "\n".join(commands)
    assert "$IMAGE_REPO_URL:$IMAGE_TAG" in text
    assert "RepoDigests" in text
    assert '--build-arg BASE="$BASE"' in text


def test_the_build_may_only_read_its_bundle_and_push_to_its_repository(record: Record, source: Path) -> None:
    made = _image(record, source)
    policy = made.one("aws:iam/rolePolicy:RolePolicy").json("policy")
    key = made.one("aws:s3/bucketObjectv2:BucketObjectv2").inputs["key"]
    everywhere = [s for s in policy["Statement"] if s["Resource"] == "*"]
    assert [s["Action"] for s in everywhere] == [["ecr:GetAuthorizationToken"]]
    assert f"arn:aws:s3:::data/{key}" in [s["Resource"] for s in policy["Statement"]]


def test_new_source_is_a_new_tag_and_the_same_source_is_not(record: Record, source: Path) -> None:
    first = _image(record, source).outputs("prodkit:index:Image")["image_tag"]
    again = _image(record, source).outputs("prodkit:index:Image")["image_tag"]
    (source / "main.py").write_text("print(1)\n")
    assert first == again != _image(record, source).outputs("prodkit:index:Image")["image_tag"]


def test_everything_sits_under_the_component_and_carries_its_tags(record: Record, source: Path) -> None:
    made = _image(record, source, tags={"Team": "a"})
    assert made.strays("prodkit:index:Image") == []
    untaggable = {"aws:ecr/lifecyclePolicy:LifecyclePolicy", "aws:iam/rolePolicy:RolePolicy"}
    assert {r.type for r in made.resources if r.custom and r.inputs.get("tags") != {"Team": "a"}} == untaggable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_images": 1}, "Image: keep_images=1 is not allowed; choose 2 to 1000 images"),
        ({"source_path": "/nonexistent"}, "has no Dockerfile"),
        ({"architecture": "arm"}, "architecture='arm' is unknown"),
        ({"keepimages": 5}, "did you mean 'keep_images'"),
    ],
)
def test_bad_arguments_stop_before_anything_registers(
    record: Record, source: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _image(record, source, **changes)
