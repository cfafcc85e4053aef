"""Which operations are answered here. A module of `services/` registers its own when it is imported, and that is when
the first request signed for its service arrives."""

import importlib
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Final, TypeVar

from moto.core.utils import get_service_model

from local.aws.call import Call, Record

Handler = Callable[[Call], Record]
_H = TypeVar("_H", bound=Handler)

MODULES: Final[dict[str, tuple[str, ...]]] = {
    "appconfig": ("appconfig", "appconfig_deployments"),
    "application-autoscaling": ("autoscaling",),
    "budgets": ("budgets",),
    "ce": ("costexplorer",),
    "codebuild": ("codebuild",),
    "dynamodb": ("dynamodb",),
    "ec2": ("ec2",),
    "ecs": ("ecs", "ecs_clusters"),
    "elasticache": ("elasticache", "elasticache_groups", "elasticache_users"),
    "elasticloadbalancing": ("elbv2",),
    "kms": ("kms",),
    "logs": ("logs",),
    "s3": ("s3",),
    "secretsmanager": ("secretsmanager",),
    "sqs": ("sqs",),
}
"""Signing name -> modules of `services/` that its operations are in."""

HANDLERS: Final[dict[tuple[str, str], Handler]] = {}
"""(service, operation), as botocore names them."""
SERVICES: Final[defaultdict[str, list[str]]] = defaultdict(list)
"""Signing name -> services that have a handler."""
_loading = threading.RLock()
_loaded: set[str] = set()


def api(service: str, *operations: str) -> Callable[[_H], _H]:
    """Register the decorated function for operations of a service.

    Raises:
        OperationNotFoundError: at import, when botocore's model has no such operation.
    """

    def register(function: _H) -> _H:
        model = get_service_model(service)
        for operation in operations:
            model.operation_model(operation)
            HANDLERS[service, operation] = function
        if service not in SERVICES[model.signing_name]:
            SERVICES[model.signing_name].append(service)
        return function

    return register


def load(signing_name: str) -> None:
    """Import what answers requests signed for this name; once, and nothing for a name that moto answers alone."""
    if signing_name in _loaded:
        return
    with _loading:
        for module in MODULES.get(signing_name, ()):
            importlib.import_module(f"local.aws.services.{module}")
        _loaded.add(signing_name)


def load_all() -> None:
    """Import everything, as for a stack that is deployed."""
    for signing_name in MODULES:
        load(signing_name)
