"""How a stack runs: tasks, balancer, health checks. Plain data that fits in one JSON line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """One service's task definition, as ECS would start it."""

    family: str
    behind_balancer: bool
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    cpu_units: int
    """1024 are one vCPU."""
    memory_mib: int
    stop_timeout_seconds: int

    @property
    def name(self) -> str:
        """What the command runs: `web` or `worker`."""
        return self.command[-1]


@dataclass(frozen=True)
class HealthCheck:
    """A target group's check."""

    path: str
    interval_seconds: float
    timeout_seconds: float
    healthy_threshold: int
    unhealthy_threshold: int
    matcher: str
    """HTTP codes that pass, as AWS writes them: `200`, `200,302` or `200-299`."""

    def passes(self, status: int) -> bool:
        """Whether the matcher names this status."""
        for part in self.matcher.split(","):
            low, _, high = part.partition("-")
            if int(low) <= status <= int(high or low):
                return True
        return False


@dataclass(frozen=True)
class Balancing:
    """The attributes of the load balancer and its target group that decide what happens to a request."""

    algorithm: str
    idle_timeout_seconds: float
    client_keep_alive_seconds: float
    deregistration_delay_seconds: float
    health_check: HealthCheck


@dataclass(frozen=True)
class Twin:
    """Everything the local runtime needs to know about a stack."""

    web: Task
    worker: Task
    balancing: Balancing

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Twin":
        """Rebuild from `to_json`."""
        balancing = {**data["balancing"], "health_check": HealthCheck(**data["balancing"]["health_check"])}
        return cls(_task(data["web"]), _task(data["worker"]), Balancing(**balancing))


def _task(data: Mapping[str, Any]) -> Task:
    return Task(**{**data, "command": tuple(data["command"])})
