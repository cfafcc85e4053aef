"""What ECS serves inside of a task, for the replicas of one run: task metadata, version 4, and its protection.

A Fargate container does not reliably see its limits in cgroups, so the app asks here; locally it gets the recorded
ones the same way.
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

PROTECTION = "task-protection/v1/state"
DEFAULT_MINUTES = 120
LONGEST_MINUTES = 2_880


class Metadata:
    """Serves `GET /<task>/task` and `GET` and `PUT /<task>/task-protection/v1/state`. An async context manager.

    `add` gives a task its address, both ECS_CONTAINER_METADATA_URI_V4 and ECS_AGENT_URI.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, Mapping[str, Any]] = {}
        self._protected_until: dict[str, datetime] = {}
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
        """Describe a task (1024 CPU units are one vCPU) and return its address."""
        limits = {"CPU": cpu_units / 1024, "Memory": memory_mib}
        self._tasks[task] = {"Family": family, "LaunchType": "FARGATE", "Limits": limits}
        return f"{self._address}/{task}"

    def remove(self, task: str) -> None:
        """Forget a task that ended."""
        self._tasks.pop(task, None)
        self._protected_until.pop(task, None)

    def protected(self, task: str) -> bool:
        """Whether a task asked not to be stopped by a deployment, and its time has not run out."""
        until = self._protected_until.get(task)
        return until is not None and until > datetime.now(UTC)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        task, _, rest = request.path.strip("/").partition("/")
        if task in self._tasks and rest == PROTECTION:
            return await self._protect(request, task)
        if task not in self._tasks or rest not in ("", "task"):
            return web.json_response({"message": f"no metadata at {request.path}"}, status=404)
        return web.json_response(self._tasks[task])

    async def _protect(self, request: web.BaseRequest, task: str) -> web.StreamResponse:
        """Set or show a task's protection."""
        arn = f"arn:aws:ecs:us-east-1:123456789012:task/local/{task}"
        if request.method == "PUT":
            try:
                protect, minutes = _wish(json.loads(await request.read()))
            except ValueError as problem:
                error = {"Arn": arn, "Code": "InvalidParameterException", "Message": str(problem)}
                return web.json_response({"error": error}, status=400)
            self._protected_until.pop(task, None)
            if protect:
                self._protected_until[task] = datetime.now(UTC) + timedelta(minutes=minutes)
        shown: dict[str, Any] = {"ProtectionEnabled": self.protected(task), "TaskArn": arn}
        if shown["ProtectionEnabled"]:
            until = self._protected_until[task].isoformat(timespec="milliseconds")
            shown["ExpirationDate"] = until.replace("+00:00", "Z")
        return web.json_response({"protection": shown})


def _wish(content: Any) -> tuple[bool, int]:
    """Whether to protect, and for how many minutes. Raises ValueError for what the agent refuses."""
    protect = content.get("ProtectionEnabled") if isinstance(content, dict) else None
    if not isinstance(protect, bool):
        raise ValueError("Invalid request: does not contain 'ProtectionEnabled' field")
    minutes = content.get("ExpiresInMinutes", DEFAULT_MINUTES)
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= LONGEST_MINUTES:
        raise ValueError(f"Invalid request: expiration duration must be 1 to {LONGEST_MINUTES} minutes")
    return protect, minutes
