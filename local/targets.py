"""The target group of the local balancer: who gets the next request, who is healthy, who is leaving."""

import asyncio
import contextlib
import enum
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import aiohttp

from local.twin import Balancing, HealthCheck

FIRST_CHECK_SECONDS = 0.1
"""Between the checks of a target that never answered. ALB waits an interval; here that would be most of the start."""


class State(enum.Enum):
    """A target's state, in AWS's words."""

    INITIAL = "initial"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@dataclass(eq=False)
class Target:
    """One registered address. Changed by its target group only."""

    name: str
    host: str
    port: int
    state: State = State.INITIAL
    outstanding: int = 0
    last_chosen: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no request is in progress."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the target passed its first check."""
    _cuts: dict[object, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.idle.set()

    @contextlib.contextmanager
    def request(self, cut: Callable[[], None]) -> Iterator[None]:
        """Count one request as in progress; `cut` breaks its client's connection."""
        mark = object()
        self._cuts[mark] = cut
        self.outstanding += 1
        self.idle.clear()
        try:
            yield
        finally:
            del self._cuts[mark]
            self.outstanding -= 1
            if not self.outstanding:
                self.idle.set()

    def cut(self) -> int:
        """Break the connections of the requests in progress; their number."""
        for cut in list(self._cuts.values()):
            cut()
        return self.outstanding


class Targets:
    """Registered targets and their health checks. In-process control of the balancer: `register` and `deregister`."""

    def __init__(self, balancing: Balancing) -> None:
        self._check: HealthCheck = balancing.health_check
        self._delay_seconds = balancing.deregistration_delay_seconds
        self._round_robin = balancing.algorithm == "round_robin"
        self._turns = itertools.count(1)
        self._targets: dict[str, Target] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def register(self, name: str, host: str, port: int) -> Target:
        """Add a target and begin to check it; it gets requests once it passed one check."""
        target = Target(name, host, port)
        self._targets[name] = target
        self._checks[name] = asyncio.create_task(self._watch(target))
        return target

    def remove(self, name: str) -> None:
        """Forget a target that is gone, at once. Unknown names are ignored."""
        self._targets.pop(name, None)
        if check := self._checks.pop(name, None):
            check.cancel()

    async def deregister(self, name: str) -> int:
        """Send it nothing new, wait until it is idle or the deregistration delay ends; how many were cut then.

        ALB breaks what is left between client and target at the end of the delay:
        https://docs.aws.amazon.com/AmazonECS/latest/bestpracticesguide/load-balancer-connection-draining.html
        """
        target = self._targets.get(name)
        if target is None:  # an interrupted stop got this far already
            return 0
        target.state = State.DRAINING
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._delay_seconds):
                await target.idle.wait()
        self.remove(name)
        return target.cut()

    def choose(self, tried: Collection[Target] = ()) -> Target | None:
        """The target for the next request, or None.

        The healthy one with the fewest requests in progress (the longest waiting among equals, or always that one
        under round robin). When every target that ever answered is unhealthy, all of them are used, as ALB does.
        https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
        """
        usable = [target for target in self if target.state is State.HEALTHY]
        if not usable:
            usable = [target for target in self if target.state is State.UNHEALTHY]
        usable = [target for target in usable if target not in tried]
        if not usable:
            return None
        load = (lambda target: 0) if self._round_robin else (lambda target: target.outstanding)
        chosen = min(usable, key=lambda target: (load(target), target.last_chosen))
        chosen.last_chosen = next(self._turns)
        return chosen

    async def close(self) -> None:
        """End every check."""
        for name in list(self._targets):
            self.remove(name)

    async def _watch(self, target: Target) -> None:
        check, streak = self._check, 0
        timeout = aiohttp.ClientTimeout(total=check.timeout_seconds)
        connector = aiohttp.TCPConnector(force_close=True)  # ALB closes the connection after each check
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            while True:
                passed = await self._passes(session, target)
                streak = _streak(streak, passed)
                self._judge(target, streak)
                first = target.state is State.INITIAL
                await asyncio.sleep(
                    min(FIRST_CHECK_SECONDS, check.interval_seconds) if first else check.interval_seconds
                )

    async def _passes(self, session: aiohttp.ClientSession, target: Target) -> bool:
        try:
            url = f"http://{target.host}:{target.port}{self._check.path}"
            async with session.get(
                url, headers={"User-Agent": "ELB-HealthChecker/2.0"}, allow_redirects=False
            ) as answer:
                return self._check.passes(answer.status)
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _judge(self, target: Target, streak: int) -> None:
        """Move a target between states: one pass makes a new one healthy, later changes need the thresholds."""
        if target.state is State.DRAINING:
            return
        needed = 1 if target.state is State.INITIAL else self._check.healthy_threshold
        if streak >= needed:
            target.state = State.HEALTHY
            target.ready.set()
        elif -streak >= self._check.unhealthy_threshold and target.state is State.HEALTHY:
            target.state = State.UNHEALTHY


def _streak(streak: int, passed: bool) -> int:
    """Checks passed (positive) or failed (negative) in a row."""
    if passed:
        return max(streak, 0) + 1
    return min(streak, 0) - 1
