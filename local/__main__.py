"""`python -m local up`: the product on this machine, for `make up`; `demo-deploy` and `kill`: what is done to it."""

import argparse
import asyncio
import functools
import os
import sys
from collections.abc import Coroutine
from typing import Any

from local import kill
from local.ports import PortTakenError
from local.screen import Progress
from local.up import Options, run, up


def command() -> Coroutine[Any, Any, int]:
    """What this call asks for; exits with a message that names the fix when it makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m local", description="The product on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("up", help="start everything and serve")
    serve.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="where it answers (PORT)")
    serve.add_argument(
        "--upstream",
        default=os.environ.get("UPSTREAM", "simulator"),
        help="simulator, or openai with OPENAI_API_KEY set (UPSTREAM)",
    )
    demo = commands.add_parser(
        "demo-deploy",
        help="replace every web replica under live streams; fails unless no stream is cut and no request refused",
    )
    demo.add_argument("--streams", type=int, default=50, help="how many are live (default %(default)s)")
    demo.add_argument("--words", type=int, default=160, help="length of each stream's answer (default %(default)s)")
    demo.add_argument(
        "--deregistration-delay",
        type=float,
        metavar="SECONDS",
        help="another one than recorded: shorter than a stream, to see streams cut",
    )
    kill.add_arguments(commands.add_parser("kill", help="stop spending in the run of `up`, or let it go on"))
    for one in (serve, demo):
        one.add_argument("--stack", default="dev", help="whose program and settings to play (default %(default)s)")
        one.add_argument("--replicas", type=int, default=2, help="web replicas behind the balancer")
        one.add_argument("--keep-logs", action="store_true", help="leave the run's logs behind")
    given = parser.parse_args()
    if given.command == "kill":
        return asyncio.to_thread(kill.kill_here, given)
    if not 1 <= given.replicas <= 20:
        parser.error(f"{given.replicas} replicas; choose 1 to 20")
    return _demo(parser, given) if given.command == "demo-deploy" else _up(parser, given)


def _up(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Coroutine[Any, Any, int]:
    if given.upstream not in ("simulator", "openai"):
        parser.error(f"upstream {given.upstream!r} is unknown; choose simulator or openai")
    openai_key = os.environ.get("OPENAI_API_KEY") if given.upstream == "openai" else None
    if given.upstream == "openai" and not openai_key:
        parser.error("UPSTREAM=openai talks to the real API and needs OPENAI_API_KEY in the environment")
    if not 0 <= given.port <= 65535:
        parser.error(f"port {given.port} is not from 0 to 65535")
    return up(Options(given.port, given.stack, given.replicas, given.keep_logs, openai_key), Progress())


def _demo(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Coroutine[Any, Any, int]:
    from local import demo  # here, because it imports the simulator, which `up` runs as a process only

    if not 1 <= given.streams <= 100:
        parser.error(f"{given.streams} streams; choose 1 to 100, what one machine can play")
    if not 20 <= given.words <= 600:
        parser.error(f"{given.words} words; choose 20 to 600: longer ones outlast the demonstration")
    if given.deregistration_delay is not None and not 0 <= given.deregistration_delay <= 3600:
        parser.error(f"a deregistration delay of {given.deregistration_delay:g} s; a target group takes 0 to 3600")
    plan = demo.Plan(given.streams, given.words)
    options = Options(
        0,
        given.stack,
        given.replicas,
        given.keep_logs,
        openai_key=None,
        speed=demo.SPEED,
        deregistration_delay_seconds=given.deregistration_delay,
    )
    return run(options, Progress(), functools.partial(demo.demonstrate, plan))


def main() -> int:
    """Run, and say in one line what stopped it from running."""
    try:
        return asyncio.run(command())
    except PortTakenError as taken:
        print(taken, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the run listens to signals itself
        return 130


if __name__ == "__main__":
    sys.exit(main())
