"""The gateway is measured as a task runs it."""

import os
from typing import Any, cast

import pytest

from app.settings import Settings
from benchmarks.interpreter import running
from benchmarks.world import GATEWAY_CPU, World, can_pin, pinned, prodkit_environment
from components._timeouts import derive

WORLD = World(
    stub=cast(Any, None),
    stub_port=1,
    cache=cast(Any, None),
    cache_endpoint="127.0.0.1:6379",
    cache_server="redis-server",
    aws_url="http://127.0.0.1:2",
    secret_arn="arn:aws:secretsmanager:us-east-1:123456789012:secret:openai",
    queue_url="http://127.0.0.1:2/queue",
    keys=(),
    interpreter=running(),
)


def test_the_environment_is_complete_and_has_the_stacks_own_timeouts() -> None:
    environment = prodkit_environment(WORLD, service="web", port=8080, upstream="http://127.0.0.1:1/v1")
    settings = Settings.from_environment(environment)
    assert not settings.uses_appconfig
    timeouts = derive(600)
    assert settings.max_stream_seconds == 600
    assert settings.request_timeout_seconds == timeouts.request_timeout_seconds


@pytest.mark.skipif(not can_pin(), reason="this machine does not give us both CPUs")
def test_what_starts_inside_the_block_has_one_cpu_and_we_keep_ours() -> None:
    before = os.sched_getaffinity(0)
    with pinned(GATEWAY_CPU):
        assert os.sched_getaffinity(0) == {GATEWAY_CPU}
    assert os.sched_getaffinity(0) == before
