from __future__ import annotations

from dataclasses import replace

import pytest

from app.aws import Aws
from app.services import Services
from app.serving import health
from app.serving.health import ready
from app.settings import Settings
from app.table_probe import GRACE_SECONDS, PROBE_SECONDS, TableProbe
from tests.app.conftest import CloudParts, free_port

pytestmark = pytest.mark.process


async def test_a_first_deployment_without_a_key_is_ready_and_says_so(services: Services) -> None:
    good, report = await ready(services)
    assert good
    assert report.pop("tasks") > 0
    assert report == {
        "status": "ready",
        "state_table": "ok",
        "models": {"version": 1, "source": "image"},
        "cache": "ok",
        "openai_key": "missing",
        "in_flight": 0,
    }


async def test_a_key_that_is_set_is_reported_and_never_shown(settings: Settings, cloud: CloudParts) -> None:
    client = cloud.client("secretsmanager")
    value = "sk-" + "k" * 30
    arn = client.create_secret(Name="set", SecretString=value)["ARN"]
    services = await Services.start(replace(settings, openai_secret_arn=arn))
    try:
        _, report = await ready(services)
        assert report["openai_key"] == "set"
        assert value not in repr(report) + repr(services)
    finally:
        await services.stop()


async def test_a_replica_makes_no_client_of_botocores(services: Services) -> None:
    assert await services.keys.lookup(f"prodkit_{'0' * 12}_{'a' * 43}") is None
    await services.ledger.tick()
    assert (await ready(services))[0]
    assert services.aws._clients == {}, "one costs some ten megabytes, and a thread for each call"


async def test_without_valkey_it_is_ready_but_degraded(settings: Settings) -> None:
    services = await Services.start(replace(settings, cache_port=free_port()))
    try:
        good, report = await ready(services)
        assert good
        assert report["status"] == "degraded"
        assert report["cache"] == "away: ConnectionError"
    finally:
        await services.stop()


async def test_without_the_state_table_it_is_not_ready_and_names_the_reason(settings: Settings) -> None:
    services = await Services.start(replace(settings, state_table="absent"))
    try:
        good, report = await ready(services)
        assert not good
        assert report["status"] == "unready"
        assert report["state_table"] == "unreachable: ResourceNotFoundException"
    finally:
        await services.stop()


async def test_a_draining_process_is_not_ready(services: Services) -> None:
    services.draining = True
    good, report = await ready(services)
    assert not good
    assert report["status"] == "draining"


async def test_everything_away_still_starts_and_stops(settings: Settings) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    services = await Services.start(
        replace(settings, aws_endpoint_url=nowhere, cache_port=free_port(), metadata_uri=nowhere)
    )
    good, report = await ready(services)
    await services.stop()
    assert not good
    assert report["openai_key"] == "missing"


async def test_stopping_twice_is_harmless(settings: Settings) -> None:
    services = await Services.start(settings)
    await services.stop()
    await services.stop()


async def test_a_short_fault_of_the_table_keeps_a_replica_ready_and_a_long_one_does_not(cloud: CloudParts) -> None:
    now = 0.0
    up, down = Aws("us-east-1", cloud.url), Aws("us-east-1", f"http://127.0.0.1:{free_port()}")
    probe = TableProbe(up, "state", clock=lambda: now)
    assert await probe.check()
    probe._aws = down
    now = PROBE_SECONDS
    assert await probe.check()
    assert probe.problem == "EndpointConnectionError"
    now = GRACE_SECONDS
    assert not await probe.check()
    probe._aws = up
    now += PROBE_SECONDS
    assert await probe.check()
    assert probe.problem == ""
    up.close()
    down.close()


def test_alive_means_the_process_and_nothing_else() -> None:
    assert health.live() == {"status": "live"}
