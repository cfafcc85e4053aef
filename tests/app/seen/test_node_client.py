"""OpenAI's client for Node.js works by changing its address and key only."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.openai.server import Running
from tests import installs
from tests.app.replica import Replica

SECONDS = 60
LOCK = json.loads((installs.NODE_CLIENT / "package-lock.json").read_text())


def test_the_pinned_client_is_held_by_a_hash_and_by_no_address() -> None:
    packages = {name: package for name, package in LOCK["packages"].items() if name}
    assert packages
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package


@pytest.fixture(scope="module")
def told(gateway: Replica, upstream: Running, key: str) -> dict[str, Any]:
    """What the client's script says."""
    client = installs.node_client()
    if client is None:
        pytest.skip("OpenAI's client for Node.js is not installed; `python -m tests.installs` does it")
    upstream.reset()
    environment = {**os.environ, "OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": key}
    script = Path(installs.NODE_CLIENT / "client.mjs")
    ran = subprocess.run(
        ["node", script, client],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.process
def test_the_node_client_gets_answers_and_streams(told: dict[str, Any], gateway: Replica) -> None:
    assert told["chat"]["text"]
    assert told["chatStream"]["text"]
    assert told["chatStream"]["usage"]["completion_tokens"] > 0
    assert (told["response"]["status"], told["response"]["model"]) == ("completed", "gpt-6-luna")
    assert gateway.line_of(told["response"]["requestID"])["endpoint"] == "/v1/responses"
    assert told["responseStream"]["text"]
    assert told["responseStream"]["last"] == "response.completed"
    assert told["helper"]["status"] == "completed"
    assert told["helper"]["text"]
    assert gateway.line_of(told["chat"]["requestID"])["output_tokens"] == told["chat"]["usage"]["completion_tokens"]


@pytest.mark.process
def test_the_node_client_gets_vectors_moderations_and_models(told: dict[str, Any]) -> None:
    assert told["embedding"]["numbers"] == [1536, 1536]
    assert told["moderation"] is False
    assert {"fast", "gpt-6-luna"} <= set(told["models"])


@pytest.mark.process
def test_the_node_client_raises_its_own_errors(told: dict[str, Any]) -> None:
    refusals = told["refusals"]
    seen = {name: (refused["name"], refused["status"], refused["code"]) for name, refused in refusals.items()}
    assert seen == {
        "model": ("NotFoundError", 404, "model_not_found"),
        "key": ("AuthenticationError", 401, "invalid_api_key"),
        "tool": ("PermissionDeniedError", 403, "not_allowed"),
        "path": ("NotFoundError", 404, "unsupported_endpoint"),
    }
    assert refusals["tool"]["param"] == "tools[0].type"
    assert all(refused["requestID"].startswith("req_") for refused in refusals.values())
