"""Replicas learn their size where Fargate tasks do."""

from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from local.metadata import Metadata

pytestmark = pytest.mark.process


async def test_each_task_sees_its_own_limits_in_vcpu_and_mib() -> None:
    async with Metadata() as metadata, aiohttp.ClientSession() as client:
        web = metadata.add("web-1", "prodkit-web", 512, 1024)
        metadata.add("worker-1", "prodkit-worker", 256, 512)
        async with client.get(f"{web}/task") as answer:
            assert (await answer.json())["Limits"] == {"CPU": 0.5, "Memory": 1024}


async def test_a_task_that_ended_is_unknown() -> None:
    async with Metadata() as metadata, aiohttp.ClientSession() as client:
        url = metadata.add("web-1", "prodkit-web", 512, 1024)
        metadata.remove("web-1")
        async with client.get(f"{url}/task") as answer:
            assert answer.status == 404


STATE = "task-protection/v1/state"


async def test_a_task_sets_shows_and_clears_its_protection_as_with_the_agent_of_ecs() -> None:
    async with Metadata() as metadata, aiohttp.ClientSession() as client:
        uri = metadata.add("worker-1", "prodkit-worker", 256, 512)
        metadata.add("worker-2", "prodkit-worker", 256, 512)
        async with client.put(f"{uri}/{STATE}", json={"ProtectionEnabled": True, "ExpiresInMinutes": 5}) as answer:
            held = (await answer.json())["protection"]
        left = datetime.fromisoformat(held["ExpirationDate"]) - datetime.now(UTC)
        assert held["ProtectionEnabled"] is True
        assert timedelta(minutes=4) < left <= timedelta(minutes=5)
        assert (metadata.protected("worker-1"), metadata.protected("worker-2")) == (True, False)
        async with client.get(f"{uri}/{STATE}") as answer:
            assert await answer.json() == {"protection": held}
        async with client.put(f"{uri}/{STATE}", json={"ProtectionEnabled": False}) as answer:
            assert (await answer.json())["protection"] == {"ProtectionEnabled": False, "TaskArn": held["TaskArn"]}
        assert not metadata.protected("worker-1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"ProtectionEnabled": 1}',
        *[
            b'{"ProtectionEnabled": true, "ExpiresInMinutes": %s}' % minutes
            for minutes in (b"0", b"2881", b'"5"', b"true")
        ],
    ],
)
async def test_what_the_agent_refuses_is_refused_in_its_shape(body: bytes) -> None:
    async with Metadata() as metadata, aiohttp.ClientSession() as client:
        uri = metadata.add("worker-1", "prodkit-worker", 256, 512)
        async with client.put(f"{uri}/{STATE}", data=body) as answer:
            assert answer.status == 400
            error = (await answer.json())["error"]
    assert error["Code"] == "InvalidParameterException"
    assert error["Arn"].endswith("task/local/worker-1")


async def test_the_protection_ends_with_the_task() -> None:
    async with Metadata() as metadata, aiohttp.ClientSession() as client:
        uri = metadata.add("worker-1", "prodkit-worker", 256, 512)
        async with client.put(f"{uri}/{STATE}", json={"ProtectionEnabled": True}) as answer:
            assert answer.status == 200
        metadata.remove("worker-1")
        assert not metadata.protected("worker-1")
        async with client.get(f"{uri}/{STATE}") as answer:
            assert answer.status == 404
