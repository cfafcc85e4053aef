"""The HTTP server of the emulated AWS: AppConfig is answered here, everything else goes to moto."""

import io
import threading
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from local.aws.appconfig import AppConfig, Request


class Emulator:
    """The WSGI application. A DynamoDB request runs alone: moto's conditional writes are not atomic between threads."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.appconfig = AppConfig()
        self._appconfig_lock = threading.Lock()
        self._dynamodb_lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request by the service that its signature names."""
        service = _signed_for(environ)
        if service == "appconfig":
            return self._appconfig(environ, start_response)
        if service == "dynamodb":
            environ["wsgi.input"] = io.BytesIO(_body(environ))  # the lock must not wait for a slow sender
            with self._dynamodb_lock:
                answer: Iterable[bytes] = self.moto(environ, start_response)
                return answer
        passed: Iterable[bytes] = self.moto(environ, start_response)
        return passed

    def _appconfig(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", "/"),
            query=dict(parse_qsl(environ.get("QUERY_STRING", ""))),
            headers={"content-type": environ.get("CONTENT_TYPE") or "application/octet-stream"},
            body=_body(environ),
        )
        with self._appconfig_lock:
            answer = self.appconfig.answer(request)
        headers = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [answer.body]


def _body(environ: WSGIEnvironment) -> bytes:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body: bytes = environ["wsgi.input"].read(length) if length else b""
    return body


def _signed_for(environ: WSGIEnvironment) -> str:
    """The signing name in a SigV4 Authorization header; "" for an unsigned or presigned request."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split(",")[0].split("/")
    return scope[3] if len(scope) > 3 else ""


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto is untyped
    protocol_version = "HTTP/1.1"  # keep-alive: replicas poll

    def log_request(self, *_: Any) -> None:
        """A request is not news."""


def server(port: int = 0) -> BaseWSGIServer:
    """A bound server on 127.0.0.1; call `serve_forever`."""
    made = make_server("127.0.0.1", port, Emulator(), threaded=True, request_handler=_Handler)
    made.daemon_threads = True  # type: ignore[attr-defined]  # of socketserver.ThreadingMixIn: a long poll must not hold up the end
    return made
