"""The real pulumi command on a copy of a stack's configuration, with a state of its own, against an emulated AWS."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.server import ThreadedMotoServer

from preflight.project import ROOT, Project
from stacks import emulated
from tests.engine.life import Life
from tests.engine.lived import STACK, Lived, live

# What the provider must not ask of an emulated AWS.
EMULATED = {"aws:s3UsePathStyle": True, "aws:skipCredentialsValidation": True, "aws:skipMetadataApiCheck": True}
PREVIEW_SECONDS = 300


def missing() -> str | None:
    """What these tests need and this machine lacks."""
    return emulated.plugin_problem(os.environ) if shutil.which("pulumi") else "the pulumi command is not on PATH"


@pytest.fixture(scope="session")
def pulumi() -> str:
    """The pulumi command; without it, or without the AWS provider's plugin, these tests are skipped with a line."""
    if problem := missing():
        pytest.skip(problem)
    return str(shutil.which("pulumi"))


@pytest.fixture(scope="session")
def living(pulumi: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Future[Lived]"]:
    """The life of a stack while it is lived: minutes, nearly all of them the provider's own waits."""
    aws = emulated.start(tmp_path_factory.mktemp("life") / "emulated", Project.load().name)
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(lambda: live(Life(pulumi, STACK, aws)))
    aws.forget()


@pytest.fixture(scope="session", autouse=True)
def begun_early(request: pytest.FixtureRequest) -> None:
    """Let the life begin with the first test here, so that the others run while it waits."""
    asked = any("living" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if asked and missing() is None:
        request.getfixturevalue("living")


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
