"""What every component owes its readers, in this language and in others."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.provider.experimental.analyzer import Analyzer, ComponentDefinition

import components.network

FOLDER = Path(components.network.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def component_classes() -> list[type[pulumi.ComponentResource]]:
    found = []
    for module in MODULES:
        made = importlib.import_module(f"components.{module}")
        found += [
            value
            for value in vars(made).values()
            if inspect.isclass(value)
            and issubclass(value, pulumi.ComponentResource)
            and value.__module__ == made.__name__
        ]
    return found


CLASSES = component_classes()


def described(component: type[pulumi.ComponentResource]) -> ComponentDefinition:
    made: dict[str, Any] = dict(Analyzer("prodkit").analyze([component]))
    definition: ComponentDefinition = made["component_definitions"][component.__name__]
    return definition


@pytest.mark.parametrize("component", CLASSES, ids=lambda component: component.__name__)
def test_every_argument_and_output_has_a_sentence(component: type[pulumi.ComponentResource]) -> None:
    definition = described(component)
    assert definition.description
    fields = {**definition.inputs, **definition.outputs}
    silent = [name for name, field in fields.items() if not (field.description or "").strip()]
    assert silent == []


@pytest.mark.parametrize("component", CLASSES, ids=lambda component: component.__name__)
def test_every_component_takes_tags_and_says_so_in_the_same_words(component: type[pulumi.ComponentResource]) -> None:
    assert described(component).inputs["tags"].description == "Tags of every resource."


@pytest.mark.parametrize("component", CLASSES, ids=lambda component: component.__name__)
def test_the_signature_never_varies(component: type[pulumi.ComponentResource]) -> None:
    parameters = inspect.signature(component.__init__).parameters
    assert list(parameters) == ["self", "name", "args", "opts"]
    assert parameters["args"].annotation.__name__ == f"{component.__name__}Args"
    assert parameters["opts"].default is None


def test_the_whole_library_can_be_described_at_once() -> None:
    made: dict[str, Any] = dict(Analyzer("prodkit").analyze(CLASSES))
    assert len(made["component_definitions"]) == len(CLASSES)
