"""The ECS task metadata endpoint, version 4, for the replicas of one run.

A Fargate container does not reliably see its limits in cgroups, so the app asks here; locally it gets the recorded
ones the same way.
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import web


class Metadata:
    """Serves `GET /<task>/task`. Use it as an async context manager; `url(task)` is what the replica gets."""

    def __init__(self) -> None:
        self._tasks: dict[str, Mapping[str, Any]] = {}
        self._address = ""
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> "Metadata":
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self._address = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def add(self, task: str, family: str, cpu_units: int, memory_mib: int) -> str:
        """Describe a task (1024 CPU units are one vCPU) and return its ECS_CONTAINER_METADATA_URI_V4."""
        limits = {"CPU": cpu_units / 1024, "Memory": memory_mib}
        self._tasks[task] = {"Family": family, "LaunchType": "FARGATE", "Limits": limits}
        return f"{self._address}/{task}"

    def remove(self, task: str) -> None:
        """Forget a task that ended."""
        self._tasks.pop(task, None)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        task, _, rest = request.path.strip("/").partition("/")
        if task not in self._tasks or rest not in ("", "task"):
            return web.json_response({"message": f"no metadata at {request.path}"}, status=404)
        return web.json_response(self._tasks[task])
