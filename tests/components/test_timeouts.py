import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import _timeouts
from components._timeouts import Timeouts, derive

STREAMS = st.integers(min_value=30, max_value=3600)


@given(STREAMS)
def test_a_quiet_stream_is_never_idle(max_stream: int) -> None:
    timeouts = derive(max_stream)
    assert 2 * timeouts.heartbeat_seconds <= timeouts.alb_idle_seconds
    assert timeouts.heartbeat_seconds < timeouts.max_stream_seconds


@given(STREAMS)
def test_the_app_never_closes_a_connection_before_the_balancer(max_stream: int) -> None:
    timeouts = derive(max_stream)
    assert timeouts.alb_idle_seconds < timeouts.app_keep_alive_seconds
    assert timeouts.alb_idle_seconds <= timeouts.client_keep_alive_seconds


@given(STREAMS)
def test_our_own_deadline_answers_before_the_balancer_gives_up(max_stream: int) -> None:
    timeouts = derive(max_stream)
    assert timeouts.request_timeout_seconds < timeouts.alb_idle_seconds
    assert timeouts.request_timeout_seconds <= timeouts.max_stream_seconds


@given(STREAMS)
def test_a_deploy_cuts_no_stream(max_stream: int) -> None:
    timeouts = derive(max_stream)
    assert timeouts.max_stream_seconds == max_stream
    assert max_stream <= timeouts.deregistration_delay_seconds <= 3600
    assert timeouts.deployment_seconds > timeouts.deregistration_delay_seconds + timeouts.container_stop_seconds


@given(STREAMS)
def test_a_task_leaves_before_it_is_killed(max_stream: int) -> None:
    timeouts = derive(max_stream)
    assert timeouts.readiness_grace_seconds + timeouts.drain_seconds < timeouts.container_stop_seconds <= 120
    assert timeouts.drain_seconds >= 30


def test_the_balancer_notices_a_leaving_task_within_its_grace() -> None:
    assert _timeouts.HEALTH_CHECK_TIMEOUT_SECONDS < _timeouts.HEALTH_CHECK_INTERVAL_SECONDS
    noticed = _timeouts.HEALTH_CHECK_INTERVAL_SECONDS * _timeouts.UNHEALTHY_THRESHOLD
    assert noticed <= derive(600).readiness_grace_seconds


@given(STREAMS)
def test_every_number_is_one_that_aws_accepts(max_stream: int) -> None:
    timeouts = derive(max_stream)
    assert all(type(value) is int and value > 0 for value in dataclasses.astuple(timeouts))
    assert 1 <= timeouts.alb_idle_seconds <= 4000
    assert 60 <= timeouts.client_keep_alive_seconds <= 604_800
    # A NAT gateway drops a flow that is quiet for 350 seconds.
    assert timeouts.tcp_keep_alive_seconds <= 60


@given(STREAMS, STREAMS)
def test_longer_streams_never_shorten_a_wait(one: int, other: int) -> None:
    shorter, longer = derive(min(one, other)), derive(max(one, other))
    assert all(a <= b for a, b in zip(dataclasses.astuple(shorter), dataclasses.astuple(longer), strict=True))


@pytest.mark.parametrize("max_stream", [-1, 0, 29, 3601, 86_400])
def test_a_stream_length_no_deploy_can_wait_for_is_refused(max_stream: int) -> None:
    with pytest.raises(ValueError, match=f"max_stream_seconds={max_stream} is not in 30-3600"):
        derive(max_stream)


def test_ten_minute_streams_give_the_documented_chain() -> None:
    assert derive(600) == Timeouts(
        max_stream_seconds=600,
        heartbeat_seconds=15,
        alb_idle_seconds=310,
        client_keep_alive_seconds=3600,
        app_keep_alive_seconds=320,
        request_timeout_seconds=300,
        deregistration_delay_seconds=610,
        readiness_grace_seconds=10,
        container_stop_seconds=120,
        drain_seconds=105,
        tcp_keep_alive_seconds=45,
        deployment_seconds=1630,
    )


def test_the_task_gets_every_wait_that_the_app_keeps() -> None:
    assert derive(600).environment() == {
        "PRODKIT_MAX_STREAM_SECONDS": "600",
        "PRODKIT_HEARTBEAT_SECONDS": "15",
        "PRODKIT_KEEP_ALIVE_SECONDS": "320",
        "PRODKIT_REQUEST_TIMEOUT_SECONDS": "300",
        "PRODKIT_DRAIN_SECONDS": "105",
        "PRODKIT_READINESS_GRACE_SECONDS": "10",
        "PRODKIT_TCP_KEEP_ALIVE_SECONDS": "45",
    }
