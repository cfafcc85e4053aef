"""The real pulumi command accepts every stack, and sees what the recorder sees."""

import json

import pytest

from preflight.project import Project
from preflight.record import record
from tests.engine.conftest import Engine
from tests.test_packaged import components

# A provider older than these says that it leaves them out; tests/components/test_rollout.py holds them to ECS's model.
YOUNG = ("'deploymentConfiguration' is not known to", "'loadBalancers.advancedConfiguration' is not known to")

pytestmark = [pytest.mark.engine, pytest.mark.process]


@pytest.mark.parametrize("stack", Project.load().stack_names())
def test_the_engine_plans_exactly_what_the_recorder_recorded(engine: Engine, stack: str) -> None:
    plan = engine.preview(stack)
    made = {step["urn"] for step in plan["steps"] if step["op"] == "create" and "pulumi:providers:" not in step["urn"]}
    recording = record(stack)
    assert made - {f"urn:pulumi:{stack}::prodkit::pulumi:pulumi:Stack::prodkit-{stack}"} == {
        item.urn for item in recording.resources
    }
    assert plan["changeSummary"] == {"create": len(recording.resources) + 1}
    said = [line["message"] for line in plan.get("diagnostics", []) if line["severity"] in ("error", "warning")]
    assert [message for message in said if not any(young in message for young in YOUNG)] == []


def test_the_components_can_be_used_from_other_languages(engine: Engine) -> None:
    schema = json.loads(engine.run("package", "get-schema", "./components"))
    assert sorted(schema["resources"]) == sorted(f"prodkit:index:{noun}" for noun in components())
    for token, resource in schema["resources"].items():
        assert resource["isComponent"], token
        for name, text in {**resource["inputProperties"], **resource["properties"]}.items():
            assert text.get("description"), f"{token}.{name}"
