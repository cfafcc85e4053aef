"""`python -m local.aws [--port 0]`: serve, say where in one JSON line, end at SIGTERM or SIGINT."""

import argparse
import os
import signal
import threading

from local.announce import announce

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # megabytes of JSON that no app asks for

SERVICES = ("s3", "kms", "dynamodb", "secretsmanager", "sqs")
"""Imported as soon as the address is told; the first call to each would wait for it otherwise."""


def main() -> None:
    """Run the server until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m local.aws", description="An emulated AWS on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    port: int = parser.parse_args().port
    from moto.backends import get_backend  # moto reads its settings when it is imported

    from local.aws.server import server

    emulator = server(port)
    ended = threading.Event()
    for caught in (signal.SIGINT, signal.SIGTERM):
        signal.signal(caught, lambda *_: ended.set())
    threading.Thread(target=emulator.serve_forever, daemon=True).start()
    announce({"url": f"http://127.0.0.1:{emulator.server_port}"})
    for service in SERVICES:
        get_backend(service)
    ended.wait()
    emulator.shutdown()
    emulator.server_close()


if __name__ == "__main__":
    main()
