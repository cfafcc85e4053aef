"""Replicas start as their task definition says, are replaced when they end, and leave as ECS lets them."""

import asyncio
import itertools
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import ENVIRONMENT
from local.balancer import Balancer
from local.children import ChildFailedError, Children
from local.metadata import Metadata
from local.targets import State
from local.tasks import LONGEST_BACKOFF_SECONDS, Overrides, Supervisor, backoff_seconds
from local.twin import Balancing, HealthCheck, Task
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process

CHECK = HealthCheck("/health/ready", 0.1, 1.0, healthy_threshold=2, unhealthy_threshold=2, matcher="200")
BALANCING = Balancing("least_outstanding_requests", 10.0, 3600.0, 10.0, CHECK)
OVERRIDES = Overrides("http://127.0.0.1:9", "us-east-1", "127.0.0.1:9", "http://127.0.0.1:9/v1")
RECORDED = {"PRODKIT_PORT": "8080", "PRODKIT_CACHE_AUTH": "iam", "PRODKIT_STACK": "dev"}
WEB = Task("small-web", True, ("python", "tests/local/small_task.py", "web"), RECORDED, 8080, 512, 1024, 5)
WORKER = replace(WEB, family="small-worker", behind_balancer=False, command=(*WEB.command[:-1], "worker"))


@dataclass
class Stage:
    """A supervisor between real servers."""

    supervisor: Supervisor
    balancer: Balancer
    children: Children
    url: str
    said: list[str]

    async def get(self, path: str) -> tuple[int, bytes]:
        async with aiohttp.ClientSession() as client, client.get(f"{self.url}{path}") as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    listener = socket.create_server(("127.0.0.1", 0))
    said: list[str] = []
    async with Children() as children, Metadata() as metadata, Balancer(BALANCING, listener) as balancer:
        supervisor = Supervisor(children, balancer.targets, metadata, OVERRIDES, said.append)
        yield Stage(supervisor, balancer, children, f"http://127.0.0.1:{listener.getsockname()[1]}", said)
        await supervisor.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the operating system sets no event
            await asyncio.sleep(0.01)


async def test_a_replica_sees_its_recorded_environment_and_the_documented_overrides_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from the shell")
    monkeypatch.setenv("PRODKIT_LOG_LEVEL", "from the shell")
    async with stage() as running:
        await running.supervisor.start(WEB, 1)
        (replica,) = running.supervisor.replicas
        environment: dict[str, str] = json.loads((await running.get("/env"))[1])
    kept = {name: value for name, value in environment.items() if name.startswith(("PRODKIT_", "OPENAI_"))}
    assert kept == {"PRODKIT_PORT": str(replica.port), "PRODKIT_CACHE_AUTH": "none", "PRODKIT_STACK": "dev"}
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert environment["ECS_CONTAINER_METADATA_URI_V4"].endswith("/web-1")


@given(st.dictionaries(st.sampled_from(ENVIRONMENT), st.text("abc", min_size=1)))
def test_an_override_replaces_and_never_adds_a_variable_of_the_task(recorded: Mapping[str, str]) -> None:
    environment = OVERRIDES.environment(replace(WEB, environment=recorded), 1, "http://127.0.0.1:9/web-1")
    assert {name for name in environment if name in ENVIRONMENT} == set(recorded)


async def test_a_killed_replica_loses_no_later_request_and_is_replaced() -> None:
    async with stage() as running:
        await running.supervisor.start(WEB, 2)
        victim = running.supervisor.replicas[0]
        os.kill(victim.child.pid, signal.SIGKILL)
        for _ in range(20):
            assert await running.get("/") == (200, b"ok")
        await until(lambda: sum(target.state is State.HEALTHY for target in running.balancer.targets) == 2)
        assert [replica.name for replica in running.supervisor.replicas] == ["web-2", "web-3"]
        assert "web-1 ended with SIGKILL" in running.said
        await until(lambda: "web-3 took its place and is healthy" in running.said)
        assert running.supervisor.crashed == []


async def test_a_replica_that_ends_before_it_is_healthy_fails_the_start_with_its_last_words() -> None:
    broken = replace(WEB, environment={**RECORDED, "BEHAVIOUR": "broken"})
    async with stage() as running:
        with pytest.raises(ChildFailedError, match=r"(?s)web-1 ended with status 1 while starting.*TABLE is missing"):
            await running.supervisor.start(broken, 1)
        assert running.supervisor.crashed == ["web-1"]
        assert list(running.balancer.targets) == []


async def test_after_one_replica_failed_to_start_the_others_are_not_replaced() -> None:
    async with stage() as running:
        await running.supervisor.start(WEB, 1)
        with pytest.raises(ChildFailedError):
            await running.supervisor.start(replace(WEB, environment={**RECORDED, "BEHAVIOUR": "broken"}), 1)
        await running.supervisor.let_go()
        (replica,) = running.supervisor.replicas
        os.kill(replica.child.pid, signal.SIGKILL)
        await replica.child.process.wait()
        assert running.children.children == [replica.child]


async def test_a_command_that_cannot_run_here_fails_the_start() -> None:
    async with stage() as running:
        with pytest.raises(ChildFailedError, match="does not begin with python"):
            await running.supervisor.start(replace(WEB, command=("java", "web")), 1)


async def test_a_worker_runs_without_the_balancer() -> None:
    async with stage() as running:
        await running.supervisor.start(WORKER, 1)
        assert [replica.name for replica in running.supervisor.replicas] == ["worker-1"]
        assert list(running.balancer.targets) == []


async def test_stopping_lets_an_open_request_finish_before_the_task_is_told() -> None:
    async with stage() as running:
        await running.supervisor.start(WEB, 1)
        (target,) = running.balancer.targets
        (replica,) = running.supervisor.replicas
        asking = asyncio.create_task(running.get("/slow"))
        await until(lambda: target.outstanding == 1)
        stopping = asyncio.create_task(running.supervisor.stop())
        assert await asking == (200, b"ok" * 10)
        await stopping
        assert replica.child.process.returncode == 0
        assert replica.child.tail() == "told to stop by SIGINT"
        assert running.supervisor.replicas == []


async def test_a_deployment_replaces_every_replica_and_lets_open_requests_finish() -> None:
    async with stage() as running:
        await running.supervisor.start(WEB, 2)
        await running.supervisor.start(WORKER, 1)
        old = [replica for replica in running.supervisor.replicas if replica.task is WEB]
        healthy = running.balancer.targets
        asking = [asyncio.create_task(running.get("/slow")) for _ in range(4)]
        await until(lambda: [target.outstanding for target in healthy] == [2, 2])
        rolling = asyncio.create_task(running.supervisor.roll(WEB))
        while not rolling.done():
            assert sum(target.state is State.HEALTHY for target in healthy) >= 2
            assert await running.get("/") == (200, b"ok")
        assert await asyncio.gather(*asking) == [(200, b"ok" * 10)] * 4
        left = await rolling
        assert sorted((one.name, one.cut, one.status) for one in left) == [("web-1", 0, 0), ("web-2", 0, 0)]
        assert [replica.child.tail() for replica in old] == ["told to stop by SIGTERM"] * 2
        assert sorted(one.name for one in running.supervisor.replicas) == ["web-3", "web-4", "worker-1"]


async def test_replicas_of_a_deployment_are_replaced_when_they_end_and_the_old_ones_are_not() -> None:
    async with stage() as running:
        await running.supervisor.start(WEB, 1)
        await running.supervisor.roll(WEB)
        (new,) = running.supervisor.replicas
        os.kill(new.child.pid, signal.SIGKILL)
        await until(lambda: "web-3 took its place and is healthy" in running.said)
        assert [replica.name for replica in running.supervisor.replicas] == ["web-3"]


async def test_a_deployment_whose_replicas_fail_leaves_the_old_ones_serving() -> None:
    async with stage() as running:
        await running.supervisor.start(WEB, 2)
        with pytest.raises(ChildFailedError, match="TABLE is missing"):
            await running.supervisor.roll(replace(WEB, environment={**RECORDED, "BEHAVIOUR": "broken"}))
        assert [replica.name for replica in running.supervisor.replicas] == ["web-1", "web-2"]
        assert await running.get("/") == (200, b"ok")
        victim, _ = running.supervisor.replicas
        os.kill(victim.child.pid, signal.SIGKILL)
        await until(lambda: any("took its place" in line for line in running.said))


async def test_a_task_that_ignores_the_order_to_stop_is_killed_after_its_stop_timeout() -> None:
    deaf = replace(WEB, environment={**RECORDED, "BEHAVIOUR": "deaf"}, stop_timeout_seconds=1)
    async with stage() as running:
        await running.supervisor.start(deaf, 1)
        await running.supervisor.stop()
        assert running.said == ["web-1 ended with SIGKILL within its 1 s to stop"]


async def test_a_variable_the_app_reads_and_the_task_does_not_set_stops_the_start_by_name() -> None:
    app = replace(WEB, command=("python", "-m", "app", "web"))
    async with stage() as running:
        with pytest.raises(ChildFailedError, match="PRODKIT_QUEUE_URL is missing"):
            await running.supervisor.start(app, 1)


def test_the_wait_before_a_replacement_grows_and_is_bounded() -> None:
    waits = [backoff_seconds(failures) for failures in range(12)]
    assert waits[:4] == [0.0, 0.0, 1.0, 2.0]
    assert all(later >= earlier for earlier, later in itertools.pairwise(waits))
    assert waits[-1] == LONGEST_BACKOFF_SECONDS
