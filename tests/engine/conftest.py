"""The real pulumi command on a copy of a stack's configuration, with a state of its own, against an emulated AWS."""

import json
import os
import shutil
import subprocess
import tempfile
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


class Living:
    """The life of a stack while it is lived: minutes, nearly all of them the provider's own waits."""

    def __init__(self, pulumi: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._aws = emulated.start(Path(self._folder.name) / "emulated", Project.load().name)
        self._thread = ThreadPoolExecutor(1)
        self._life = Life(pulumi, STACK, self._aws)
        self.lived = self._thread.submit(live, self._life)

    def end(self) -> None:
        """Leave nothing behind, however far it came."""
        self._life.end()
        self._thread.shutdown()
        self._aws.forget()
        self._folder.cleanup()


LIVING = pytest.StashKey[Living]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those here come last: what they wait for goes on beside the others."""
    items.sort(key=lambda item: Path(__file__).parent in item.path.parents)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the life begin before the first test of all."""
    asked = any("living" in getattr(item, "fixturenames", ()) for item in session.items)
    command = shutil.which("pulumi")
    if asked and command and missing() is None and not session.config.option.collectonly:
        session.config.stash[LIVING] = Living(command)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing outlives the tests."""
    if living := session.config.stash.get(LIVING, None):
        living.end()


@pytest.fixture(scope="session")
def living(pulumi: str, pytestconfig: pytest.Config) -> "Future[Lived]":
    """The life that was begun."""
    return pytestconfig.stash[LIVING].lived


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
