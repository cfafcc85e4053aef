"""Replicas learn their size where Fargate tasks do."""

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
