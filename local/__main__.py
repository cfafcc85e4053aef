"""`python -m local up`: the product on this machine. `make up` calls it."""

import argparse
import asyncio
import os
import sys

from local.ports import PortTakenError
from local.screen import Progress
from local.up import Options, up


def options() -> Options:
    """The options of this call; exits with a message that names the fix when they make no sense."""
    parser = argparse.ArgumentParser(prog="python -m local", description="The product on this machine.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("up", help="start everything and serve")
    command.add_argument(
        "--port", type=int, default=int(os.environ.get("PORT", "8080")), help="where it answers (PORT)"
    )
    command.add_argument(
        "--upstream",
        default=os.environ.get("UPSTREAM", "simulator"),
        help="simulator, or openai with OPENAI_API_KEY set (UPSTREAM)",
    )
    command.add_argument("--stack", default="dev", help="whose program and settings to play")
    command.add_argument("--replicas", type=int, default=2, help="web replicas behind the balancer")
    command.add_argument("--keep-logs", action="store_true", help="leave the run's logs behind")
    given = parser.parse_args()
    if given.upstream not in ("simulator", "openai"):
        parser.error(f"upstream {given.upstream!r} is unknown; choose simulator or openai")
    openai_key = os.environ.get("OPENAI_API_KEY") if given.upstream == "openai" else None
    if given.upstream == "openai" and not openai_key:
        parser.error("UPSTREAM=openai talks to the real API and needs OPENAI_API_KEY in the environment")
    if not 0 <= given.port <= 65535:
        parser.error(f"port {given.port} is not from 0 to 65535")
    if not 1 <= given.replicas <= 20:
        parser.error(f"{given.replicas} replicas; choose 1 to 20")
    return Options(given.port, given.stack, given.replicas, given.keep_logs, openai_key)


def main() -> int:
    """Run, and say in one line what stopped it from running."""
    try:
        return asyncio.run(up(options(), Progress()))
    except PortTakenError as taken:
        print(taken, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the run listens to signals itself
        return 130


if __name__ == "__main__":
    sys.exit(main())
