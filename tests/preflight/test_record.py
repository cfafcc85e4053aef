"""The recorder runs any program, keeps whole registrations, hides secrets and leaves nothing behind."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks

from preflight.monitor import UnexpectedInvokeError
from preflight.project import UnknownStackError
from preflight.record import evaluate, record
from preflight.wire import UNKNOWN, Secret

BUCKET = "aws:s3/bucket:Bucket"
MakeProject = Callable[..., Path]

PROGRAM = """
    import pulumi, pulumi_aws as aws

    class Shelf(pulumi.ComponentResource):
        def __init__(self, name):
            super().__init__("tiny:index:Shelf", name, {})
            child = pulumi.ResourceOptions(parent=self, protect=True, ignore_changes=["tags"])
            self.bucket = aws.s3.Bucket(f"{name}-bucket", tags={"n": pulumi.Config().require("size")}, opts=child)
            self.register_outputs({"bucket": self.bucket.bucket})

    shelf = Shelf("shelf")
    version = aws.secretsmanager.SecretVersion(
        "value",
        secret_id=shelf.bucket.arn,
        secret_string=pulumi.Output.secret("hunter22hunter22"),
        opts=pulumi.ResourceOptions(depends_on=[shelf]),
    )
    pulumi.export("zones", aws.get_availability_zones_output(state="available").names)
    pulumi.export("value", version.secret_string)
    pulumi.export("bucket", shelf.bucket.bucket)
"""


def test_a_registration_is_kept_whole(project: MakeProject) -> None:
    root = project(PROGRAM)
    recording = record("dev", root=root)
    shelf, bucket = recording.one("tiny:index:Shelf"), recording.one(BUCKET, "shelf-bucket")
    assert bucket.parent == shelf.urn
    assert bucket.urn == "urn:pulumi:dev::tiny::tiny:index:Shelf$aws:s3/bucket:Bucket::shelf-bucket"
    assert bucket.inputs == {"tags": {"n": "3"}}
    assert (bucket.protect, bucket.ignore_changes, bucket.custom) == (True, ["tags"], True)
    assert recording.children(shelf.urn) == [bucket]
    path, line = bucket.source.split(":")
    assert path == "__main__.py"
    assert "aws.s3.Bucket(" in (root / "__main__.py").read_text().splitlines()[int(line) - 1]
    version = recording.one("aws:secretsmanager/secretVersion:SecretVersion")
    assert version.dependencies == [bucket.urn]
    assert version.property_dependencies["secretId"] == [bucket.urn]


def test_a_urn_names_every_ancestor_s_type_but_the_stack_s(project: MakeProject) -> None:
    program = """
        import pulumi
        outer = pulumi.ComponentResource("tiny:index:Outer", "o")
        inner = pulumi.ComponentResource("tiny:index:Inner", "i", opts=pulumi.ResourceOptions(parent=outer))
        pulumi.ComponentResource("tiny:index:Leaf", "l", opts=pulumi.ResourceOptions(parent=inner))
    """
    assert [item.urn.split("::", 2)[2] for item in record("dev", root=project(program)).resources] == [
        "tiny:index:Outer::o",
        "tiny:index:Outer$tiny:index:Inner::i",
        "tiny:index:Outer$tiny:index:Inner$tiny:index:Leaf::l",
    ]


def test_what_aws_decides_is_unknown_in_a_preview(project: MakeProject) -> None:
    recording = record("dev", root=project(PROGRAM))
    version = recording.one("aws:secretsmanager/secretVersion:SecretVersion")
    assert version.inputs["secretId"] is UNKNOWN
    assert version.unknowns == ["secretId"]
    assert recording.outputs["bucket"] is UNKNOWN
    assert recording.one("tiny:index:Shelf").outputs == {"bucket": UNKNOWN}


def test_a_secret_is_marked_and_stays_secret_on_its_way_to_an_output(project: MakeProject) -> None:
    recording = record("dev", root=project(PROGRAM))
    version = recording.one("aws:secretsmanager/secretVersion:SecretVersion")
    assert version.inputs["secretString"] == Secret("hunter22hunter22")
    assert version.secrets == ["secretString"]
    assert isinstance(recording.outputs["value"], Secret)
    assert "hunter22" not in repr(recording)


def test_invokes_about_the_account_are_answered_for_the_stack_s_region(project: MakeProject) -> None:
    program = """
        import pulumi, pulumi_aws as aws
        pulumi.export("zones", aws.get_availability_zones_output(state="available").names)
        pulumi.export("account", aws.get_caller_identity_output().account_id)
        pulumi.export("region", aws.get_region_output().region)
        pulumi.export("partition", aws.get_partition_output().partition)
    """
    assert record("dev", root=project(program)).outputs == {
        "zones": ["us-west-1a", "us-west-1b"],
        "account": "123456789012",
        "region": "us-west-1",
        "partition": "aws",
    }


def test_an_invoke_that_needs_an_account_is_refused(project: MakeProject) -> None:
    root = project("import pulumi_aws as aws\naws.ec2.get_vpc_output(id='vpc-1').cidr_block\n")
    with pytest.raises(Exception, match="getVpc needs a real account") as caught:
        record("dev", root=root)
    assert isinstance(caught.value, UnexpectedInvokeError)


def test_reading_an_existing_resource_is_refused(project: MakeProject) -> None:
    root = project("import pulumi_aws as aws\naws.ec2.Vpc.get('v', 'vpc-1')\n")
    with pytest.raises(Exception, match=r"Vpc.get\('vpc-1'\) needs a real account"):
        record("dev", root=root)


def test_two_resources_of_one_urn_are_refused(project: MakeProject) -> None:
    root = project("import pulumi_aws as aws\naws.sqs.Queue('q')\naws.sqs.Queue('q')\n")
    with pytest.raises(Exception, match="two resources have the URN"):
        record("dev", root=root)


def test_an_unknown_stack_is_refused_with_the_names_of_those_that_exist(project: MakeProject) -> None:
    with pytest.raises(UnknownStackError, match="no stack 'prdo'; stacks that exist: dev"):
        record("prdo", root=project(PROGRAM))


def test_a_setting_comes_from_the_default_the_stack_file_or_an_override(project: MakeProject) -> None:
    root = project(
        "import pulumi; pulumi.export('size', pulumi.Config().require_int('size'))",
        stack="config:\n  aws:region: us-east-2\n  tiny:names: [a, b]\n",
    )
    recording = record("dev", {"size": "8"}, root=root)
    assert recording.outputs == {"size": 8}
    assert {key: (setting.value, setting.source) for key, setting in recording.settings.items()} == {
        "aws:region": ("us-east-2", "stacks/Pulumi.dev.yaml"),
        "tiny:names": ('["a", "b"]', "stacks/Pulumi.dev.yaml"),
        "tiny:open": ("false", "default"),
        "tiny:size": ("8", "override"),
    }


def test_an_encrypted_setting_is_neither_read_nor_shown(project: MakeProject) -> None:
    root = project("import pulumi", stack="config:\n  tiny:token: {secure: 'v1:abcdefgh'}\n")
    setting = record("dev", root=root).settings["tiny:token"]
    assert setting.secret
    assert "abcdefgh" not in repr(setting)


def test_recordings_follow_each_other_in_one_process_and_leave_nothing(project: MakeProject) -> None:
    root = project(PROGRAM)
    (root / "stacks" / "Pulumi.two.yaml").write_text("config:\n  tiny:size: 9\n")
    before = (pulumi.get_stack(), pulumi.get_project(), os.environ.get("PULUMI_CONFIG"), set(os.environ))
    first, second, again = record("dev", root=root), record("two", root=root), record("dev", root=root)
    assert [item.one(BUCKET).inputs["tags"]["n"] for item in (first, second, again)] == ["3", "9", "3"]
    assert [item.urn for item in first.resources] == [item.urn for item in again.resources]
    assert before == (pulumi.get_stack(), pulumi.get_project(), os.environ.get("PULUMI_CONFIG"), set(os.environ))
    assert pulumi.Config("tiny").get("size") is None


async def test_a_recording_works_while_a_loop_is_running(project: MakeProject) -> None:
    loop = asyncio.get_running_loop()
    assert len(record("dev", root=project(PROGRAM)).resources) == 3
    assert asyncio.get_running_loop() is loop


def test_a_program_s_error_reaches_the_caller_and_the_next_recording_is_clean(project: MakeProject) -> None:
    root = project(
        "import pulumi\nimport pulumi_aws as aws\naws.sqs.Queue('q')\nraise pulumi.RunError('size=3 is bad')\n"
    )
    with pytest.raises(pulumi.RunError, match="size=3 is bad"):
        record("dev", root=root)
    assert record("dev", root=project(PROGRAM)).outputs["value"]


def test_a_program_s_warnings_are_kept(project: MakeProject) -> None:
    root = project("import pulumi\npulumi.log.info('fine')\npulumi.log.warn('careful')\n")
    assert record("dev", root=root).messages == ["careful"]


class Making(Mocks):
    """Mocks that make up physical ids, as a twin of a stack does."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        self.seen[args.name] = args.inputs
        return f"{args.name}-id", {"arn": f"arn:{args.name}", "bucket": f"{args.name}-real", **args.inputs}

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        return {"names": ["us-west-1c"], "id": "x", "zoneIds": [], "groupNames": []}, None


@pytest.mark.parametrize("parallel", [1, 4])
def test_real_outputs_flow_through_the_program(project: MakeProject, parallel: int) -> None:
    mocks = Making()
    recording = evaluate("dev", mocks, root=project(PROGRAM), parallel=parallel)
    version = recording.one("aws:secretsmanager/secretVersion:SecretVersion")
    assert version.inputs["secretId"] == "arn:shelf-bucket"
    assert recording.outputs["bucket"] == "shelf-bucket-real"
    assert recording.outputs["zones"] == ["us-west-1c"]
    assert recording.outputs["value"] == Secret("hunter22hunter22")
    assert mocks.seen["value"]["secretString"] == "hunter22hunter22"
    assert set(mocks.seen) == {"shelf-bucket", "value"}
    assert recording.one(BUCKET).id == "shelf-bucket-id"


def test_a_failing_mock_fails_the_evaluation(project: MakeProject) -> None:
    class Failing(Making):
        def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
            raise RuntimeError("no such bucket today")

    with pytest.raises(Exception, match="no such bucket today"):
        evaluate("dev", Failing(), root=project(PROGRAM))
