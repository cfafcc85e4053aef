"""Every wait on a stream's way, derived from how long one stream may last.

The numbers only work as a chain, so nothing but `derive` sets them:

    heartbeat * 2 <= balancer idle < app keep-alive       a quiet stream is not idle, the app never closes first
    non-stream deadline < balancer idle                   our own 504 arrives before the balancer's
    max stream <= deregistration delay <= 3600            a deploy waits for the longest stream
    balancer notices not ready <= readiness grace         no request is sent to a task that stopped listening
    readiness grace + drain < container stop <= 120       the app leaves before it is killed
"""

from dataclasses import dataclass

SHORTEST_STREAM_SECONDS = 30
# The most that a target group accepts as deregistration delay, hence the longest stream that a deploy can wait for:
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
LONGEST_STREAM_SECONDS = 3600
# Fargate's most between SIGTERM and SIGKILL:
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_definition_parameters.html#container_definition_timeout
LONGEST_CONTAINER_STOP_SECONDS = 120

HEARTBEAT_SECONDS = 15
# A NAT gateway drops a flow after 350 quiet seconds; half a dozen probes fit before that.
TCP_KEEP_ALIVE_SECONDS = 45
# The balancer closes a client connection after this age, always between two requests; it is also ALB's default.
CLIENT_KEEP_ALIVE_SECONDS = 3600
# A call that does not stream sends no byte until it is done: longer ones have to stream.
LONGEST_REQUEST_SECONDS = 300
SHORTEST_IDLE_SECONDS = 60

HEALTH_CHECK_INTERVAL_SECONDS = 5
HEALTH_CHECK_TIMEOUT_SECONDS = 4
UNHEALTHY_THRESHOLD = 2
HEALTHY_THRESHOLD = 2
# ECS ignores failed checks of a task this young: image pull, imports and the first answers of the services behind it.
HEALTH_CHECK_GRACE_SECONDS = 60

_MARGIN_SECONDS = 10
_EXIT_MARGIN_SECONDS = 5
# Placing tasks, pulling the image and passing health checks, besides the drain of the tasks that leave.
_PLACEMENT_SECONDS = 900


@dataclass(frozen=True)
class Timeouts:
    """The chain in whole seconds; see the inequalities at the top of the module."""

    max_stream_seconds: int
    """Longest answer that is streamed to a caller."""
    heartbeat_seconds: int
    """Most time between two bytes of a stream; a comment is sent when the model is silent."""
    alb_idle_seconds: int
    """The balancer closes a connection on which no byte moved for this long."""
    client_keep_alive_seconds: int
    """Age at which the balancer closes a client's connection, after the answer in progress."""
    app_keep_alive_seconds: int
    """The app keeps an idle connection this long; longer than the balancer, or callers see 502."""
    request_timeout_seconds: int
    """Deadline of a call that does not stream."""
    deregistration_delay_seconds: int
    """A target that leaves keeps its open requests this long before its task gets SIGTERM."""
    readiness_grace_seconds: int
    """After SIGTERM the app goes on listening this long while readiness fails."""
    container_stop_seconds: int
    """Time between SIGTERM and SIGKILL."""
    drain_seconds: int
    """After the grace, requests and jobs in progress get this long to finish."""
    tcp_keep_alive_seconds: int
    """Interval of TCP keep-alive probes on connections to OpenAI."""
    deployment_seconds: int
    """A rolling deployment that takes longer has failed."""

    def environment(self) -> dict[str, str]:
        """The task's `PRODKIT_*_SECONDS` variables, whole seconds as text."""
        return {
            "PRODKIT_MAX_STREAM_SECONDS": str(self.max_stream_seconds),
            "PRODKIT_HEARTBEAT_SECONDS": str(self.heartbeat_seconds),
            "PRODKIT_KEEP_ALIVE_SECONDS": str(self.app_keep_alive_seconds),
            "PRODKIT_REQUEST_TIMEOUT_SECONDS": str(self.request_timeout_seconds),
            "PRODKIT_DRAIN_SECONDS": str(self.drain_seconds),
            "PRODKIT_READINESS_GRACE_SECONDS": str(self.readiness_grace_seconds),
            "PRODKIT_TCP_KEEP_ALIVE_SECONDS": str(self.tcp_keep_alive_seconds),
        }


def derive(max_stream_seconds: int) -> Timeouts:
    """The chain for streams of up to `max_stream_seconds` (30-3600); ValueError outside of that."""
    if not SHORTEST_STREAM_SECONDS <= max_stream_seconds <= LONGEST_STREAM_SECONDS:
        raise ValueError(
            f"max_stream_seconds={max_stream_seconds} is not in {SHORTEST_STREAM_SECONDS}-{LONGEST_STREAM_SECONDS}; "
            "a deploy waits for the longest stream, and a target group waits an hour at most"
        )
    request_timeout = min(max_stream_seconds, LONGEST_REQUEST_SECONDS)
    alb_idle = max(SHORTEST_IDLE_SECONDS, request_timeout + _MARGIN_SECONDS)
    deregistration_delay = min(max_stream_seconds + _MARGIN_SECONDS, LONGEST_STREAM_SECONDS)
    readiness_grace = HEALTH_CHECK_INTERVAL_SECONDS * UNHEALTHY_THRESHOLD
    drain = min(max_stream_seconds, LONGEST_CONTAINER_STOP_SECONDS - readiness_grace - _EXIT_MARGIN_SECONDS)
    container_stop = readiness_grace + drain + _EXIT_MARGIN_SECONDS
    return Timeouts(
        max_stream_seconds=max_stream_seconds,
        heartbeat_seconds=HEARTBEAT_SECONDS,
        alb_idle_seconds=alb_idle,
        client_keep_alive_seconds=CLIENT_KEEP_ALIVE_SECONDS,
        app_keep_alive_seconds=alb_idle + _MARGIN_SECONDS,
        request_timeout_seconds=request_timeout,
        deregistration_delay_seconds=deregistration_delay,
        readiness_grace_seconds=readiness_grace,
        container_stop_seconds=container_stop,
        drain_seconds=drain,
        tcp_keep_alive_seconds=TCP_KEEP_ALIVE_SECONDS,
        deployment_seconds=deregistration_delay + container_stop + _PLACEMENT_SECONDS,
    )
