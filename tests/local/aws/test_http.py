"""Connections of the emulated AWS: kept, answered in order, and never a reason for a client to send a call twice."""

import http.client
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from wsgiref.types import StartResponse, WSGIEnvironment

import boto3
import pytest

from local.aws.http import bound
from local.aws.server import Emulator
from tests.local.aws.rig import REGION, Rig
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers by path: the body that came, a status without a body, or a fault."""
    if environ["PATH_INFO"] == "/fault":
        raise RuntimeError("a fault of the emulator")
    status = "204 No Content" if environ["PATH_INFO"] == "/204" else "200 OK"
    start_response(status, [("Content-Length", "8"), ("Connection", "close")])
    return [environ["wsgi.input"].read() or b"{}      "]


@pytest.fixture
def connection() -> Iterator[http.client.HTTPConnection]:
    """One connection to that application."""
    server = bound(application, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE_SECONDS)
    yield made
    made.close()
    server.shutdown()
    thread.join()
    server.server_close()


def asked(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection.request(method, path, body, encode_chunked=not isinstance(body, (bytes, type(None))))  # type: ignore[arg-type]
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_one_connection_carries_requests_of_every_kind_in_order(connection: http.client.HTTPConnection) -> None:
    connection.connect()
    first = connection.sock
    assert asked(connection, "POST", "/", b"whole") == (200, b"whole")
    assert asked(connection, "PUT", "/", iter([b"in ", b"pieces"])) == (200, b"in pieces")
    assert asked(connection, "DELETE", "/204") == (204, b"")
    assert asked(connection, "HEAD", "/") == (200, b"")
    assert asked(connection, "POST", "/", b"last") == (200, b"last")
    assert connection.sock is first


def test_a_fault_is_shown_and_the_connection_lives_on(connection: http.client.HTTPConnection) -> None:
    status, text = asked(connection, "GET", "/fault")
    assert status == 500
    assert b"a fault of the emulator" in text
    assert asked(connection, "POST", "/", b"next") == (200, b"next")


def test_a_call_whose_caller_left_before_its_turn_is_not_made() -> None:
    emulator, made = Emulator(everything=False), list[str]()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        made.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return []

    emulator.moto = answer
    server = bound(emulator, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    callers = {
        path: http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE_SECONDS)
        for path in ("/left", "/stayed")
    }
    with emulator._alone:
        for path, caller in callers.items():
            caller.request("POST", path, b"whole")
        callers["/left"].close()
    assert callers["/stayed"].getresponse().status == 200
    callers["/stayed"].close()
    server.shutdown()
    thread.join()
    server.server_close()
    assert made == ["/stayed"]


def together(target: str | None) -> int:
    """The most requests that ran at one time when four were sent at once."""
    emulator, running, most = Emulator(everything=False), [0], [0]

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.02)
        running[0] -= 1
        return []

    emulator.moto = slow
    scope = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host"
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "HTTP_AUTHORIZATION": scope}
    if target:
        environ["HTTP_X_AMZ_TARGET"] = target
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: emulator(dict(environ), lambda *_: lambda _: None), range(4)))
    return most[0]


def test_calls_run_one_by_one() -> None:
    assert together("AmazonSQS.SendMessage") == 1


def test_a_call_that_waits_for_a_message_keeps_nobody_else_waiting() -> None:
    assert together("AmazonSQS.ReceiveMessage") > 1


def test_what_a_busy_client_asks_for_once_is_made_once(rig: Rig) -> None:
    tries = 96
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
    client = session.client("ec2", endpoint_url=rig.url)
    attempts: list[str] = []
    client.meta.events.register(
        "before-send.ec2.CreateRouteTable", lambda request, **_: attempts.append(request.headers["amz-sdk-request"])
    )
    vpc = client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    with ThreadPoolExecutor(8) as threads:
        made = set(
            threads.map(
                lambda _: client.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"],
                range(tries),
            )
        )
    found = client.get_paginator("describe_route_tables").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    tables = [table for page in found for table in page["RouteTables"]]
    main = 1
    assert (len(made), len(tables), len(attempts)) == (tries, tries + main, tries)
