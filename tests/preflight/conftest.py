"""A small Pulumi project in a temporary folder, for what must work with any program."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

_PROJECT = """
name: tiny
runtime: python
stackConfigDir: stacks
config:
  size: {type: integer, default: 3}
  names: {type: array, items: {type: string}, default: []}
  open: {type: boolean, default: false}
"""


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """A function from a program (and the `dev` stack's file) to the folder of a project that holds them."""

    def write(program: str, stack: str = "config:\n  aws:region: us-west-1\n") -> Path:
        (tmp_path / "Pulumi.yaml").write_text(_PROJECT)
        (tmp_path / "stacks").mkdir(exist_ok=True)
        (tmp_path / "stacks" / "Pulumi.dev.yaml").write_text(stack)
        (tmp_path / "__main__.py").write_text(textwrap.dedent(program))
        return tmp_path

    return write
