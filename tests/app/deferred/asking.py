"""A request that may wait, as most tests send it, and its answer."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.app.deferred.conftest import Yard

HELLO = {"model": "fast", "input": "hello", "max_output_tokens": 100}


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["output"][-1]["content"][0]["text"])


async def finished(yard: Yard, body: dict[str, Any] = HELLO, path: str = "/v1/responses") -> dict[str, Any]:
    """A request once it is over."""
    accepted = await yard.send(body, path)
    await yard.work(yard.over(accepted["id"]))
    return await yard.look(accepted["id"])


async def nothing_left(yard: Yard) -> bool:
    """Whether the queue is empty."""
    sqs, url = yard.cloud.client("sqs"), yard.services.settings.queue_url
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = await asyncio.to_thread(sqs.get_queue_attributes, QueueUrl=url, AttributeNames=names)
    return all(int(found["Attributes"][name]) == 0 for name in names)
