"""The way from product code to the models: the official client on the pipeline, loaded when it is first needed."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from app.keys import Identity
    from app.pipeline.record import Record
    from app.sdk import Runs


class Gateway:
    """Makes clients that speak for one identity."""

    def __init__(self, pipeline: Runs) -> None:
        self._pipeline = pipeline
        self._loaded = False

    async def client(self, identity: Identity, request_id: str, parent: Record | None = None) -> AsyncOpenAI:
        """A client for one request of the product; close it with `async with`. The first one takes a second.

        `parent` is the request's record, when it came by HTTP.
        """
        if not self._loaded:
            # In a thread: the streams that are open go on meanwhile.
            await asyncio.to_thread(_load)
            self._loaded = True
        from app import sdk

        return sdk.client(self._pipeline, identity, request_id, parent)


def _load() -> None:
    # The SDK would import the last two itself, at their first use and in the way of every stream.
    for name in ("app.sdk", "openai.resources.responses", "numpy"):
        import_module(name)
