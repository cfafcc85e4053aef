"""The image's one command: `python -m app web|worker|health|job`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

HEALTH_SECONDS = 3.0
"""Shorter than the container health check's own limit, so that a hang is told as one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("web", help="serve the OpenAI-compatible gateway and the product until SIGTERM")
    commands.add_parser("worker", help="take documents from the queue until SIGTERM")
    commands.add_parser("health", help="exit 0 when the process on this port is alive, else 1")
    jobs = commands.add_parser("job", help="run one scheduled job and end").add_subparsers(required=True, metavar="JOB")
    rotation = jobs.add_parser("rotate-key", help="replace the OpenAI key when it is old, and revoke replaced ones")
    rotation.add_argument("--now", action="store_true", help="replace the key whatever its age")
    rotation.set_defaults(run=lambda given: rotate_key(now=given.now))
    settling = jobs.add_parser("settle-suspense", help="settle what silent replicas left, by OpenAI's bill")
    settling.set_defaults(run=lambda given: settle_suspense())
    given = parser.parse_args(argv)
    if given.command == "job":
        return int(given.run(given))
    return {"web": web, "worker": worker, "health": health}[given.command]()


def web() -> int:
    """Serve until SIGTERM."""
    return _run("web")


def worker() -> int:
    """Work until SIGTERM."""
    return _run("worker")


def rotate_key(*, now: bool = False) -> int:
    """One run of the key rotation."""
    from app.jobs.settings import RotationSettings
    from app.settings import SettingsError

    try:
        settings = RotationSettings.from_environment(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    from app.jobs.rotate_key import run
    from app.observability import log

    log.setup(settings.log_level)
    return run(settings, now=now)


def settle_suspense() -> int:
    """One run over what is in suspense."""
    from app.jobs.settings import SettlingSettings
    from app.settings import SettingsError

    try:
        settings = SettlingSettings.from_environment(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    from app.jobs.settle_suspense import run
    from app.observability import log

    log.setup(settings.log_level)
    return run(settings)


def health() -> int:
    """Ask the process of this container whether it lives; it runs every few seconds, so it imports little."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PRODKIT_PORT", "8080")), HEALTH_SECONDS)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"not alive: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0 if status == 200 else 1


def _run(service: str) -> int:
    from app.settings import Settings, SettingsError

    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    from app.observability import log

    log.setup(settings.log_level)
    if service == "worker":
        from app.worker import run

        return run(settings)
    from app.serving.server import serve
    from app.serving.web import create_app

    return serve(create_app(settings), settings)


if __name__ == "__main__":
    sys.exit(main())
