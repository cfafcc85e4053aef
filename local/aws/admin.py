"""What a test does to the emulated world and AWS has no API for: POST /_emulator/<path> with a JSON object."""

import os
from collections.abc import Callable
from typing import Final

from moto.moto_api._internal.models import moto_api_backend

from local.aws import faults, registry, state
from local.aws.call import Record

Admin = Callable[[Record], Record]


def reset(_body: Record) -> Record:
    """Forget everything, moto's state included."""
    state.reset()
    moto_api_backend.reset()
    return {}


def clock(body: Record) -> Record:
    """`{"advance_seconds": 600}`: move time forward for what is timed here, such as AppConfig's deployments."""
    return {"now": state.advance(float(body.get("advance_seconds", 0))).isoformat()}


def operations(_body: Record) -> Record:
    """Every operation that is answered here and not by moto, `service:Operation`."""
    registry.load_all()
    return {"operations": sorted(":".join(key) for key in registry.HANDLERS)}


def fail_next_deployment(body: Record) -> Record:
    """`{"reason": "tasks failed to start.", "service": "web"}`: the next ECS deployment, of any service when none is
    named, fails; with a circuit breaker or alarms that roll back, the task definition before it is put back."""
    registry.load("ecs")
    from local.aws.services import ecs_deployments

    return ecs_deployments.fail_next(body)


def process(_body: Record) -> Record:
    """Which process answers, for who remembers an address and a number that others may have by now."""
    return {"pid": os.getpid()}


def refuse(body: Record) -> Record:
    """`{"operation": "sqs:CreateQueue", "code": "RequestThrottled"}`: refuse the next call, or the next `times`.

    The code is one of the service's model.
    """
    registry.load_all()
    service, _, operation = body["operation"].partition(":")
    if (service, operation) not in registry.HANDLERS:
        return {"error": f"{body['operation']} is not answered here, so it cannot be made to fail"}
    faults.arm(body["operation"], body["code"], body.get("message", "refused by a test"), int(body.get("times", 1)))
    return {}


ADMIN: Final[dict[str, Admin]] = {
    "clock": clock,
    "ecs/fail-next-deployment": fail_next_deployment,
    "operations": operations,
    "process": process,
    "refuse": refuse,
    "reset": reset,
}
