"""The served OpenAPI document says what is served, and nothing that it allows or forbids makes this service fail."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from app.models import Models, default_document
from app.pipeline.endpoints import ENDPOINTS
from app.product.routes import routes
from app.serving import openapi
from local.openai.server import Running
from tests import installs
from tests.app.replica import Replica

DOCUMENT = openapi.document(Models(default_document()))
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
SECONDS = 600
FEW_EXAMPLES = 5


def test_every_path_that_is_served_is_described() -> None:
    def unused() -> Any:
        raise AssertionError

    product = {route.path for route in routes(unused, unused) if isinstance(route, Route)}
    ours = {"/cache", "/v1/deferred/{deferred_id}", "/health/live", "/health/ready", openapi.PATH}
    others = ours | {"/v1/models", "/v1/models/{model}"}
    assert set(DOCUMENT["paths"]) == product | set(ENDPOINTS) | others


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda endpoint: endpoint.path)
def test_what_the_document_takes_is_what_the_code_takes(endpoint: Any) -> None:
    body = DOCUMENT["paths"][endpoint.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(endpoint.fields)
    assert body["additionalProperties"] is False
    jsonschema.Draft202012Validator.check_schema(body)
    model = {"text": "fast", "embedding": "text-embedding-3-small", "moderation": "omni-moderation-latest"}
    good = {"model": model[endpoint.kind], endpoint.content: [] if endpoint.content == "messages" else "hi"}
    jsonschema.validate(good, body)
    for bad in ({"model": "gpt-0"}, {"surprise": 1}, {endpoint.content: 7}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | bad, body)


@pytest.mark.process
def test_anybody_may_read_the_document(gateway: Replica) -> None:
    status, headers, body = gateway.send("GET", openapi.PATH)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == DOCUMENT


@pytest.mark.process
def test_nothing_the_document_allows_or_forbids_makes_the_service_fail(
    gateway: Replica, upstream: Running, key: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = installs.schemathesis()
    if command is None:
        pytest.skip("schemathesis is not installed; `python -m tests.installs` does it")
    upstream.reset()
    examples: int = request.config.getoption("--api-examples")
    phases = "coverage,fuzzing" if examples > FEW_EXAMPLES else "fuzzing"  # every boundary of every field: a minute
    ran = subprocess.run(
        [
            *(command, "run", f"http://127.0.0.1:{gateway.port}{openapi.PATH}"),
            *("--header", f"Authorization: Bearer {key}", "--checks", ",".join(CHECKS)),
            *("--phases", phases, "--max-examples", str(examples), "--mode", "all"),
            *("--continue-on-failure", "--no-color", "--generation-deterministic"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ran.returncode == 0, ran.stdout[-6_000:] + ran.stderr
    assert gateway.status("/health/ready") == 200
    assert [line for line in gateway.request_lines() if line.get("domain") == "us"] == []
