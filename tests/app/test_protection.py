"""A job is never stopped by a deployment or by scaling in, and never by the lack of an answer about that either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from app.protection import ANSWER_SECONDS, CLEARINGS, TaskProtection
from tests.app.conftest import free_port
from tests.app.ecs_agent import ARN, CLEARED, SET, Agent, encoded, running_agent, until
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process

REFUSED = {"failure": {"Arn": ARN, "Detail": None, "Reason": "DEPLOYMENT_BLOCKED"}}
DENIED = {"requestID": "1", "error": {"Arn": ARN, "Code": "AccessDeniedException", "Message": "no"}}


@pytest.fixture
def agent() -> Iterator[Agent]:
    with running_agent() as started:
        yield started


@pytest.fixture
async def protection(agent: Agent) -> AsyncIterator[TaskProtection]:
    made = TaskProtection(agent.uri)
    yield made
    await made.close()


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["fields"]["reason"] for record in caplog.records if record.name == "app.protection"]


async def test_the_task_is_protected_before_a_job_begins_and_free_after_it(
    agent: Agent, protection: TaskProtection, caplog: pytest.LogCaptureFixture
) -> None:
    async with protection.job():
        assert agent.asked == [SET]
    await agent.until([SET, CLEARED])
    assert reasons(caplog) == []


async def test_jobs_at_the_same_time_share_one_protection(agent: Agent, protection: TaskProtection) -> None:
    release = asyncio.Event()

    async def work() -> None:
        async with protection.job():
            await release.wait()

    jobs = [asyncio.create_task(work()) for _ in range(4)]
    async with protection.job():
        assert agent.asked == [SET]
    release.set()
    await asyncio.gather(*jobs)
    await agent.until([SET, CLEARED])


async def test_a_job_that_begins_while_the_protection_is_being_cleared_gets_its_own(
    agent: Agent, protection: TaskProtection
) -> None:
    async with protection.job():
        agent.gate.clear()
    await agent.until([SET, CLEARED])

    async def second() -> None:
        async with protection.job():
            assert agent.asked == [SET, CLEARED, SET]

    job = asyncio.create_task(second())
    await asyncio.sleep(0)
    agent.gate.set()
    await job
    await agent.until([SET, CLEARED, SET, CLEARED])


async def test_a_job_that_fails_or_is_broken_off_lets_go(agent: Agent, protection: TaskProtection) -> None:
    with pytest.raises(LookupError):
        async with protection.job():
            raise LookupError
    await agent.until([SET, CLEARED])

    async def endless() -> None:
        async with protection.job():
            await asyncio.Event().wait()

    job = asyncio.create_task(endless())
    await agent.until([SET, CLEARED, SET])
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await agent.until([SET, CLEARED, SET, CLEARED])


async def test_a_long_job_renews_its_protection(agent: Agent) -> None:
    protection = TaskProtection(agent.uri, renew_seconds=0.01)
    async with protection.job():
        await until(lambda: len(agent.asked) > 3)
        assert agent.asked == [SET] * len(agent.asked)
    await until(lambda: agent.asked[-1] == CLEARED)
    asked = len(agent.asked)
    async with protection.job():
        assert agent.asked[asked:][:1] == [SET]
    await protection.close()


ODD = {
    "refused by ECS": (200, encoded(REFUSED), "DEPLOYMENT_BLOCKED"),
    "denied": (400, encoded(DENIED), "AccessDeniedException"),
    "throttled": (429, encoded({"error": {"Code": "ThrottlingException", "Message": ""}}), "ThrottlingException"),
    "ECS is away": (504, encoded({"error": {"Arn": ARN, "Code": "RequestCanceled", "Message": ""}}), "RequestCanceled"),
    "failure without a reason": (200, encoded({"failure": {}}), "failure"),
    "the opposite": (200, encoded({"protection": {"ProtectionEnabled": False}}), "unknown answer"),
    "nothing said": (200, b"{}", "unknown answer"),
    "a list": (200, b"[]", "unknown answer"),
    "no JSON": (500, b"<html>", "JSONDecodeError"),
    "nothing": (500, b"", "JSONDecodeError"),
}


@pytest.mark.parametrize("case", ODD)
async def test_an_odd_answer_is_logged_and_tried_again_while_the_job_goes_on(
    case: str, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    status, body, reason = ODD[case]
    agent.answers = [(status, body)]
    protection = TaskProtection(agent.uri, retry_seconds=0.01)
    async with protection.job():
        assert reasons(caplog) == [reason]
        await agent.until([SET, SET])
    await agent.until([SET, SET, CLEARED])
    assert reasons(caplog) == [reason]
    await protection.close()


async def test_an_agent_that_is_away_stops_no_job(caplog: pytest.LogCaptureFixture) -> None:
    protection = TaskProtection(f"http://127.0.0.1:{free_port()}")
    async with protection.job():
        pass
    await protection.close()
    assert reasons(caplog)[0] == "ConnectionRefusedError"


async def test_outside_of_ecs_nobody_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    protection = TaskProtection(None)
    async with protection.job(), protection.job():
        pass
    await protection.close()
    assert reasons(caplog) == []


async def test_closing_while_the_agent_hangs_does_not_wait_for_it(agent: Agent) -> None:
    protection = TaskProtection(agent.uri)
    async with protection.job():
        agent.gate.clear()
    await agent.until([SET, CLEARED])
    async with asyncio.timeout(ANSWER_SECONDS / 2):
        await protection.close()
    agent.gate.set()


async def test_a_clearing_that_fails_is_tried_again_and_not_for_ever(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    refused = (400, encoded(DENIED))
    protection = TaskProtection(agent.uri, retry_seconds=0.01)
    async with protection.job():
        agent.answers = [refused]
    await agent.until([SET, CLEARED, CLEARED])
    agent.asked.clear()
    async with protection.job():
        agent.answers = [refused] * 9
    await until(lambda: len(reasons(caplog)) == 1 + CLEARINGS)
    assert agent.asked == [SET, *[CLEARED] * CLEARINGS]
    await protection.close()


async def test_a_job_that_begins_after_a_failed_clearing_protects_itself_again(agent: Agent) -> None:
    protection = TaskProtection(agent.uri)
    async with protection.job():
        agent.answers = [(400, encoded(DENIED))]
    await agent.until([SET, CLEARED])
    async with asyncio.timeout(PATIENCE_SECONDS), protection.job():
        assert agent.asked == [SET, CLEARED, SET]
    await protection.close()
