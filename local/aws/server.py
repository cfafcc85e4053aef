"""The HTTP server of the emulated AWS: operations registered here in front, moto behind."""

import json
import os
import socket
import threading
import traceback
import uuid
from collections.abc import Iterable
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

# Read by moto when it is imported: a certificate would take a minute, and default images are megabytes nobody asks for.
os.environ.setdefault("MOTO_ACM_VALIDATION_WAIT", "1")
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

from botocore.model import OperationModel
from moto.core.exceptions import ServiceException
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer

from local.aws import faults, registry
from local.aws.admin import ADMIN
from local.aws.call import Answer, AwsError, Call, MotoRefusedError, Record, read, with_body
from local.aws.http import bound
from local.aws.registry import HANDLERS, SERVICES, Handler
from local.aws.shapes import check

ACCOUNT = "123456789012"
APP_NAMES = frozenset({"appconfig", "dynamodb", "secretsmanager"})
"""Signing names of the services that the app itself needs more of than moto has."""
WAITS = "AmazonSQS.ReceiveMessage"
"""Waits for a message that another request brings, so it cannot run alone."""
Matched = tuple[OperationModel, Record]
"""An operation and the parameters in its path."""


class Emulator:
    """The WSGI application. Requests run one by one: moto's backends are not made for threads."""

    def __init__(self, everything: bool) -> None:
        self._names = registry.MODULES.keys() if everything else APP_NAMES
        self.moto = DomainDispatcherApplication(create_backend_app)
        self._alone = threading.RLock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, whose body has arrived, by the service that its signature names."""
        path = environ.get("PATH_INFO", "")
        name, region = _signed_for(environ)
        if environ.get("HTTP_X_AMZ_TARGET") == WAITS:
            return self._answered(name, region, environ, start_response)
        with self._alone:
            if _has_left(environ):
                return _send(Answer("499 Client Closed Request", [], b""), start_response)
            if path.startswith("/_emulator/"):
                return _send(self._admin(path.removeprefix("/_emulator/"), read(environ)), start_response)
            if name in self._names:
                registry.load(name)
            return self._answered(name, region, environ, start_response)

    def _answered(
        self, name: str, region: str, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        services = _services(name, environ) if name in self._names else []
        body = None
        if services and not get_service_model(services[0]).protocol.startswith("rest"):
            body = read(environ)  # never large: the operation is named in it, or in a header beside it
            environ = with_body(environ, body)
        for service in services:
            matched = _match(service, environ, body)
            handler = HANDLERS.get((service, matched[0].name)) if matched else None
            if matched and handler:
                return _send(self._handle(handler, matched, environ, region), start_response)
        if name == "appconfig":  # moto's own has other ids, and nothing that is deployed
            path = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            kind = [("Content-Type", "application/json"), ("x-amzn-ErrorType", "NotImplemented")]
            text = json.dumps({"Message": f"{path} is not emulated"}).encode()
            return _send(Answer("501 Not Implemented", kind, text), start_response)
        if body is not None:
            environ = with_body(environ, body)
        answer: Iterable[bytes] = self.moto(environ, start_response)
        return answer

    def _handle(self, handler: Handler, matched: Matched, environ: WSGIEnvironment, region: str) -> Answer:
        from local.aws.messages import Messages  # what parses and writes requests is needed by few of them

        body = read(environ)
        environ = with_body(environ, body)
        messages = Messages(*matched, environ, body)
        try:
            params = messages.parsed()
            call = Call(self.moto, environ, body, matched[0], messages.protocol, params, ACCOUNT, region)
            if fault := faults.due(f"{call.service}:{call.operation}"):
                raise AwsError(*fault)
            result = handler(call)
            check(matched[0], result)
            sent = messages.serialized(result)
        except ServiceException as refusal:
            sent = messages.serialized(refusal)
        except MotoRefusedError as refused:
            return refused.answer
        except Exception:  # shown to the caller: a fault of the emulator must not look like a refusal of AWS
            traceback.print_exc()
            return Answer(
                "500 Internal Server Error", [("Content-Type", "text/plain")], traceback.format_exc().encode()
            )
        return Answer(sent.status, [("x-amzn-requestid", str(uuid.uuid4())), *sent.headers], sent.body)

    def _admin(self, path: str, body: bytes) -> Answer:
        function = ADMIN.get(path)
        json_type = [("Content-Type", "application/json")]
        if function is None:
            return Answer("404 Not Found", json_type, json.dumps({"known": sorted(ADMIN)}).encode())
        return Answer("200 OK", json_type, json.dumps(function(json.loads(body or b"{}"))).encode())


def _has_left(environ: WSGIEnvironment) -> bool:
    """Whether the caller closed its connection while the request waited for its turn.

    A deployment that gets Ctrl-C drops its calls: made all the same, they would leave what no state tells of.
    """
    connection = environ.get("werkzeug.socket")
    if connection is None:
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _send(answer: Answer, start_response: StartResponse) -> list[bytes]:
    headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
    start_response(answer.status, [*headers, ("Content-Length", str(len(answer.body)))])
    return [answer.body]


def _services(name: str, environ: WSGIEnvironment) -> list[str]:
    """The services with operations here that a request signed for `name` may be for."""
    if name != "s3":
        return SERVICES.get(name, [])
    return ["s3control"] if environ.get("PATH_INFO", "").startswith("/v20180820/") else []  # both sign as s3


def _match(service: str, environ: WSGIEnvironment, body: bytes | None) -> Matched | None:
    """The operation of a request, None when this service has none of that name."""
    model = get_service_model(service)
    if body is None:
        from local.aws.messages import routed

        return routed(service, environ)
    if "HTTP_X_AMZ_TARGET" in environ:
        operation = environ["HTTP_X_AMZ_TARGET"].rpartition(".")[2]
    else:
        form = parse_qs(body.decode())
        if form.get("Version") not in (None, [model.api_version]):
            return None  # classic and application load balancers share a signing name and names of actions
        operation = form.get("Action", [""])[0]
    return (model.operation_model(operation), {}) if operation in model.operation_names else None


def _signed_for(environ: WSGIEnvironment) -> tuple[str, str]:
    """Signing name and region of a SigV4 Authorization header; "" for an unsigned or presigned request."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split(",")[0].split("/")
    return (scope[3].lower(), scope[2]) if len(scope) > 3 else ("", "")


def server(port: int = 0, everything: bool = False) -> BaseWSGIServer:
    """A bound server on 127.0.0.1; call `serve_forever`.

    Args:
        port: 0 takes a free one.
        everything: answer what deploying a stack asks for, too; without it, what the app itself asks for.
    """
    return bound(Emulator(everything), port)
