"""Components stay usable from other languages: the SDK's analyser accepts each, and the plugin serves them all."""

import ast
import importlib
from typing import Any

import pulumi
from pulumi.provider.experimental.analyzer import Analyzer

from preflight.project import ROOT

FOLDER = ROOT / "components"


def components() -> dict[str, type[pulumi.ComponentResource]]:
    """Every component by its noun."""
    found = {}
    for path in sorted(FOLDER.glob("[a-z]*.py")):
        module: Any = importlib.import_module(f"components.{path.stem}")
        for name, value in vars(module).items():
            component = isinstance(value, type) and issubclass(value, pulumi.ComponentResource)
            if component and value.__module__ == module.__name__:
                found[name] = value
    return found


def test_the_analyser_accepts_every_component_and_finds_a_description_for_each_property() -> None:
    definitions = Analyzer("prodkit").analyze(list(components().values()))["component_definitions"]
    assert sorted(definitions) == sorted(components())
    for noun, definition in definitions.items():
        for name, described in {**definition.inputs, **definition.outputs}.items():
            assert described.description, f"{noun}.{name}"


def test_the_plugin_serves_every_component() -> None:
    tree = ast.parse((FOLDER / "__main__.py").read_text())
    (served,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)]
    assert sorted(ast.unparse(item) for item in served.elts) == sorted(components())
