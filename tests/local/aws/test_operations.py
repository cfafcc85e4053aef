"""Every operation that is answered here is called by boto3, which parses the answer by the service's own model."""

from collections.abc import Callable

import pytest

from local.aws import registry
from tests.local.aws import scenarios_data, scenarios_service
from tests.local.aws.rig import Rig

pytestmark = pytest.mark.process

SCENARIOS: dict[str, Callable[[Rig], None]] = {
    "appconfig": scenarios_data.appconfig,
    "application-autoscaling": scenarios_service.autoscaling,
    "budgets": scenarios_data.budgets,
    "ce": scenarios_data.ce,
    "codebuild": scenarios_service.codebuild,
    "dynamodb": scenarios_data.dynamodb,
    "ec2": scenarios_service.ec2,
    "ecs": scenarios_service.ecs,
    "elasticache": scenarios_service.elasticache,
    "elasticloadbalancing": scenarios_service.elasticloadbalancing,
    "kms": scenarios_data.kms,
    "logs": scenarios_service.logs,
    "s3": scenarios_data.s3,
    "secretsmanager": scenarios_data.secretsmanager,
    "sqs": scenarios_data.sqs,
}
"""Signing name -> what is done with the service."""
registry.load_all()
OPERATIONS = sorted(
    (name, f"{service}:{operation}")
    for name, services in registry.SERVICES.items()
    for service, operation in registry.HANDLERS
    if service in services
)


class Called:
    """Which operations each scenario got an answer of, run when it is first asked for."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._answered: dict[str, set[str]] = {}

    def by(self, name: str) -> set[str]:
        """Operations answered while the scenario of a signing name ran."""
        if name not in self._answered:
            self._rig.admin("reset")
            self._rig.answered.clear()
            SCENARIOS[name](self._rig)
            self._answered[name] = set(self._rig.answered)
        return self._answered[name]


@pytest.fixture(scope="module")
def called(shared_rig: Rig) -> Called:
    """The scenarios and what they called."""
    return Called(shared_rig)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[operation for _, operation in OPERATIONS])
def test_an_operation_is_answered_as_the_services_model_says(called: Called, name: str, operation: str) -> None:
    assert operation in called.by(name)


def test_every_service_has_its_scenario() -> None:
    assert SCENARIOS.keys() == registry.MODULES.keys() == registry.SERVICES.keys()
