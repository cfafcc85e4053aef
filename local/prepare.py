"""`python -m local.prepare --stack dev`: evaluate the stack, make what the app talks to, say how replicas start.

A process of its own, so that the run it works for stays small and quick to interrupt. One JSON line comes in on
standard input when the servers are there (this process imports meanwhile) and one goes out when everything is made. The
OpenAI key travels on that pipe only: not in an argument, not in an environment.
"""

import argparse
import json
import sys
import threading
from dataclasses import dataclass
from typing import Any

from local.announce import announce
from local.emulated import MAKERS
from local.materialise import Endpoints, Materialiser
from local.recorded import read
from preflight.project import ROOT, Project, UnknownStackError
from preflight.record import evaluate

TENANT = "demo"


@dataclass(frozen=True)
class Order:
    """What the run tells this process."""

    aws_url: str
    cache: str
    openai_key: str

    def __repr__(self) -> str:
        return f"Order({self.aws_url}, {self.cache})"


def prepare(stack: str, orders: "Orders") -> dict[str, Any]:
    """Make the stack: what the replicas start from, a key for the tenant, and what to tell about it."""
    region = Project.load(ROOT).settings(stack)["aws:region"].value
    mocks = Materialiser(region, lambda: Endpoints(orders.get().aws_url, orders.get().cache))
    recording = evaluate(stack, mocks)
    made = read(recording)
    secret = made.web.environment["PRODKIT_OPENAI_SECRET_ARN"]
    mocks.aws.client("secretsmanager").put_secret_value(SecretId=secret, SecretString=orders.get().openai_key)
    return {
        "twin": made.to_json(),
        "api_key": _tenant_key(mocks, made.web.environment["PRODKIT_STATE_TABLE"]),
        "tenant": TENANT,
        "region": region,
        "resources": len(recording.resources),
        "emulated": sum(resource.type in MAKERS for resource in recording.resources),
    }


def _tenant_key(mocks: Materialiser, table: str) -> str:
    from app.keys import create_key

    return create_key(mocks.aws.client("dynamodb"), table, tenant=TENANT, name="make up", role="admin")


class Orders:
    """The order, read from standard input when it is first needed."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._lock = threading.Lock()

    def get(self) -> Order:
        """Wait for the line if it is not there yet. Raises EOFError when the run is gone."""
        with self._lock:  # resources are made in several threads
            if self._order is None:
                line = sys.stdin.readline()
                if not line:
                    raise EOFError("the run ended before it said where its servers are")
                self._order = Order(**json.loads(line))
            return self._order


def main() -> None:
    """Read the order, answer with one line."""
    parser = argparse.ArgumentParser(prog="python -m local.prepare", description="Evaluate a stack for `local up`.")
    parser.add_argument("--stack", default="dev")
    arguments = parser.parse_args()
    try:
        announce(prepare(arguments.stack, Orders()))
    except UnknownStackError as unknown:
        sys.exit(str(unknown.args[0]))


if __name__ == "__main__":
    main()
