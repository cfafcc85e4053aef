"""HTTP/1.1 for the emulated AWS: connections are kept, and an answer leaves in one piece.

werkzeug's own server closes each connection behind an answer it wrote in pieces. A client on a busy machine that loses
such an answer sends the call again, and AWS's own make things twice then: two route tables, a queue that is deleted
already.
"""

import traceback
from http import HTTPStatus
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from local.aws.call import Answer, Application, read, run, with_body

WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto is untyped
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered

    def run_wsgi(self) -> None:
        """Answer one request; the next one of this connection comes after it."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ = self.make_environ()
        environ = with_body(environ, read(environ))  # to its end, or the next request would begin in it
        try:
            answer = run(self.server.app, environ)
        except Exception:  # shown to the caller: a fault of the emulator must not look like a refusal of AWS
            traceback.print_exc()
            answer = Answer("500 Internal Server Error", [], traceback.format_exc().encode())
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        code, _, phrase = answer.status.partition(" ")
        status, body = int(code), answer.body
        self.send_response(status, phrase)
        lengths = [value for name, value in answer.headers if name.lower() == "content-length"]
        for name, value in answer.headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        if status in WITHOUT_BODY:
            body = b""
        elif self.command == "HEAD":  # as long as the body of a GET would be
            self.send_header("Content-Length", lengths[0] if lengths else "0")
            body = b""
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_request(self, *_: Any) -> None:
        """A request is not news."""


def bound(application: Application, port: int) -> BaseWSGIServer:
    """A server on 127.0.0.1 with a thread for each connection; call `serve_forever`."""
    made = make_server("127.0.0.1", port, application, threaded=True, request_handler=_Handler)
    made.daemon_threads = True  # type: ignore[attr-defined]  # of socketserver.ThreadingMixIn: a long poll must not hold up the end
    return made
