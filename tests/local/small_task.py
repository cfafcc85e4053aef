"""`python tests/local/small_task.py web`: a task with the outside of the app and nothing inside, for the supervisor.

GET /env answers with its environment, GET /slow in pieces for a second; BEHAVIOUR says what else it does.
"""

import http.server
import json
import os
import signal
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        pieces = [json.dumps(dict(os.environ)).encode()] if self.path == "/env" else [b"ok"]
        if self.path == "/slow":
            pieces *= 10
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            if self.path == "/slow":
                time.sleep(0.1)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    """Serve until told to stop."""
    behaviour = os.environ.get("BEHAVIOUR", "")
    if behaviour == "broken":
        sys.exit("TABLE is missing")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PRODKIT_PORT"])), Handler)
    told = threading.Event()

    def on_term(number: int, _: object) -> None:
        sys.stderr.write(f"told to stop by {signal.Signals(number).name}\n")
        sys.stderr.flush()
        if behaviour != "deaf":
            told.set()

    for order in (signal.SIGTERM, signal.SIGINT):
        signal.signal(order, on_term)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.wait()


if __name__ == "__main__":
    main()
