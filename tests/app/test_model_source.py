from __future__ import annotations

import asyncio
import copy
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app import models as module
from app.aws import Aws
from app.models import ModelSource, default_document
from app.settings import Settings
from tests.app.conftest import REGION, free_port
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
PARTS: dict[str, Any] = {
    "appconfig_application": "app1234",
    "appconfig_environment": "env1234",
    "appconfig_profile": "prof123",
}


class DataPlane:
    """AppConfig's data plane: sessions, tokens for one use, and nothing in the body when nothing is new."""

    def __init__(self) -> None:
        self.body = b""
        self.sessions: list[dict[str, Any]] = []
        self.token = 0
        self.sent: dict[int, bytes] = {}
        self.fail = False
        self.interval = 15
        self.lock = threading.Lock()

    def begin(self, request: dict[str, Any]) -> dict[str, str]:
        with self.lock:
            self.sessions.append(request)
            return {"InitialConfigurationToken": str(self.next_token(b""))}

    def next_token(self, sent: bytes) -> int:
        self.token += 1
        self.sent = {self.token: sent}
        return self.token

    def latest(self, token: int) -> tuple[int, bytes, dict[str, str]]:
        with self.lock:
            if self.fail or token not in self.sent:
                return 400, b'{"Message": "bad token"}', {"x-amzn-errortype": "BadRequestException"}
            new = b"" if self.sent[token] == self.body else self.body
            headers = {
                "Next-Poll-Configuration-Token": str(self.next_token(self.body)),
                "Next-Poll-Interval-In-Seconds": str(self.interval),
                "Content-Type": "application/json",
            }
            return 200, new, headers


@pytest.fixture
def plane() -> Iterator[tuple[DataPlane, str]]:
    """The data plane on a real socket, and its address."""
    state = DataPlane()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.reply(201, json.dumps(state.begin(request)).encode(), {})

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self.reply(*state.latest(int(query["configuration_token"][0])))

        def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def source(plane: tuple[DataPlane, str], settings: Settings) -> Iterator[ModelSource]:
    """A source that reads the data plane."""
    clients = Aws(REGION, plane[1])
    yield ModelSource(replace(settings, **PARTS), clients)
    clients.close()


def document(version: int, **changes: Any) -> bytes:
    return json.dumps(copy.deepcopy(default_document()) | {"version": version} | changes).encode()


async def test_a_deployed_document_is_in_force_at_the_start(source: ModelSource, plane: tuple[DataPlane, str]) -> None:
    plane[0].body = document(7)
    await source.start()
    assert (source.current.version, source.source, source.problem) == (7, "appconfig", "")
    assert plane[0].sessions == [
        {
            "ApplicationIdentifier": "app1234",
            "EnvironmentIdentifier": "env1234",
            "ConfigurationProfileIdentifier": "prof123",
            "RequiredMinimumPollIntervalInSeconds": 15,
        }
    ]
    await source.stop()


async def test_a_new_document_is_taken_at_the_next_poll_in_the_same_session(
    source: ModelSource, plane: tuple[DataPlane, str]
) -> None:
    plane[0].body = document(7)
    assert await source.poll() == 15
    first = source.current
    assert await source.poll() == 15
    assert source.current is first
    plane[0].body, plane[0].interval = document(8), 60
    assert await source.poll() == 60
    assert source.current.version == 8
    assert len(plane[0].sessions) == 1


async def test_polls_are_never_faster_than_appconfig_allows(source: ModelSource, plane: tuple[DataPlane, str]) -> None:
    plane[0].interval = 1
    assert await source.poll() == module.POLL_SECONDS >= 15


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{broken", "it is not JSON"),
        (b"[]", "is not an object"),
        (document(8, default_model="gpt-7"), "default_model: 'gpt-7'"),
        (b" " * (module.MAX_DOCUMENT_BYTES + 1), "more than"),
    ],
)
async def test_a_bad_document_is_refused_and_the_last_good_one_stays(
    source: ModelSource, plane: tuple[DataPlane, str], body: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    plane[0].body = document(7)
    await source.poll()
    plane[0].body = body
    with caplog.at_level(logging.ERROR, logger="app.models"):
        assert await source.poll() == 15
        await source.poll()
    assert source.current.version == 7
    assert problem in source.problem
    assert len(caplog.records) == 1
    plane[0].body = document(9)
    await source.poll()
    assert (source.current.version, source.problem) == (9, "")


async def test_a_lost_session_is_begun_again(source: ModelSource, plane: tuple[DataPlane, str]) -> None:
    plane[0].body = document(7)
    await source.poll()
    plane[0].fail = True
    await source.poll()
    assert source.problem == "BadRequestException"
    assert source.current.version == 7
    plane[0].fail, plane[0].body = False, document(8)
    await source.poll()
    assert (source.current.version, source.problem) == (8, "")
    assert len(plane[0].sessions) == 2


async def test_appconfig_away_starts_with_the_images_document_and_says_why(settings: Settings) -> None:
    clients = Aws(REGION, f"http://127.0.0.1:{free_port()}")
    source = ModelSource(replace(settings, **PARTS), clients)
    await source.start()
    await source.stop()
    assert (source.current.version, source.source) == (default_document()["version"], "image")
    assert source.problem == "EndpointConnectionError"
    clients.close()


async def test_without_appconfig_nothing_is_polled(settings: Settings, aws: Aws) -> None:
    source = ModelSource(settings, aws)
    await source.start()
    assert source.source == "image"
    assert source._task is None
    await source.stop()


async def test_the_task_goes_on_polling_after_the_wait_that_a_poll_gives(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 0
    third = asyncio.Event()

    async def poll() -> int:
        nonlocal polls
        polls += 1
        if polls == 3:
            third.set()
        return 0

    monkeypatch.setattr(source, "poll", poll)
    await source.start()
    await asyncio.wait_for(third.wait(), PATIENCE_SECONDS)
    await source.stop()
    assert source._task is not None
    assert source._task.cancelled()
