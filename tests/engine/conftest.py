"""The real pulumi command on a copy of a stack's configuration, with a state of its own, against an emulated AWS."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.server import ThreadedMotoServer

from preflight.project import ROOT, Project

# What the provider must not ask of an emulated AWS.
EMULATED = {"aws:s3UsePathStyle": True, "aws:skipCredentialsValidation": True, "aws:skipMetadataApiCheck": True}
PREVIEW_SECONDS = 300


@pytest.fixture(scope="session")
def pulumi() -> str:
    """The pulumi command; without it, or without the AWS provider's plugin, these tests are skipped with a line."""
    command = shutil.which("pulumi")
    if command is None:
        pytest.skip("pulumi is not on PATH")
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    if not list((home / "plugins").glob("resource-aws-v*")):
        pytest.skip("Pulumi's AWS plugin is not installed (pulumi plugin install resource aws)")
    return command


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Address of an emulated AWS: the one that is running, or one of our own."""
    if "AWS_ENDPOINT_URL" in os.environ:
        yield os.environ["AWS_ENDPOINT_URL"]
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


class Engine:
    """Runs pulumi for this project without touching its files or anybody's state."""

    def __init__(self, command: str, endpoint: str, folder: Path) -> None:
        self._command = command
        self._folder = folder
        self._environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": "test",
            "PULUMI_BACKEND_URL": f"file://{folder}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def run(self, *arguments: str, cwd: Path = ROOT) -> str:
        """Standard output of one call; fails the test with what the command said."""
        done = subprocess.run(
            [self._command, *arguments, "--non-interactive"],
            cwd=cwd,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PREVIEW_SECONDS,
        )
        if done.returncode:
            pytest.fail(f"pulumi {' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def preview(self, stack: str) -> dict[str, Any]:
        """The plan of a stack in an empty account."""
        project = Project.load()
        beside = self._folder / "init"
        beside.mkdir()
        (beside / "Pulumi.yaml").write_text(yaml.safe_dump({"name": project.name, "runtime": "python"}))
        self.run("stack", "init", stack, cwd=beside)
        document = yaml.safe_load((project.stacks / f"Pulumi.{stack}.yaml").read_text())
        document["config"].update(EMULATED)
        copy = self._folder / f"Pulumi.{stack}.yaml"
        copy.write_text(yaml.safe_dump(document))
        plan = json.loads(self.run("preview", "--stack", stack, "--config-file", str(copy), "--json"))
        assert isinstance(plan, dict)
        return plan


@pytest.fixture
def engine(pulumi: str, endpoint: str, tmp_path: Path) -> Engine:
    """A pulumi with an empty state."""
    return Engine(pulumi, endpoint, tmp_path)
