"""The app that most teams write first: FastAPI in front of the official SDK. Runs in an environment of its own.

`python naive.py --port P --upstream http://127.0.0.1:S/v1` serves until SIGTERM; the key comes from OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import Body, FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI

BODY = Body()


def create_app(upstream: str) -> FastAPI:
    """The app, asking the API at `upstream`."""
    client = AsyncOpenAI(base_url=upstream)
    app = FastAPI()

    async def events(stream: Any) -> AsyncIterator[str]:
        async for chunk in stream:
            yield f"data: {chunk.model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"

    async def chat(request: dict[str, Any] = BODY) -> Any:
        answer = await client.chat.completions.create(**request)
        if request.get("stream"):
            return StreamingResponse(events(answer), media_type="text/event-stream")
        return answer

    app.post("/v1/chat/completions")(chat)
    return app


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args()
    uvicorn.run(
        create_app(options.upstream), host="127.0.0.1", port=options.port, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    main()
