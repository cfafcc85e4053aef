"""`python -m local.aws [--port 0] [--all]`: serve, say where in one JSON line, end at SIGTERM or SIGINT."""

import argparse
import signal
import threading

from local.announce import announce

SERVICES = ("s3", "kms", "dynamodb", "secretsmanager", "sqs", "sns")
"""Imported as soon as the address is told; the first call to each would wait for it otherwise."""


def main() -> None:
    """Run the server until it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m local.aws", description="An emulated AWS on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--all", action="store_true", help="answer what deploying a stack asks for, too")
    given = parser.parse_args()
    from moto.backends import get_backend

    from local.aws import registry
    from local.aws.server import APP_NAMES, server

    emulator = server(given.port, everything=given.all)
    ended = threading.Event()
    for caught in (signal.SIGINT, signal.SIGTERM):
        signal.signal(caught, lambda *_: ended.set())
    threading.Thread(target=emulator.serve_forever, daemon=True).start()
    announce({"url": f"http://127.0.0.1:{emulator.server_port}"})
    for service in SERVICES:
        get_backend(service)
    for name in registry.MODULES if given.all else APP_NAMES:
        registry.load(name)
    ended.wait()
    emulator.shutdown()
    emulator.server_close()


if __name__ == "__main__":
    main()
