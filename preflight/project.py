"""The project and its stack files as the pulumi command reads them: the stacks, each key's value and its origin."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


class UnknownStackError(LookupError):
    """The stack has no file; the message names those that have one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration value in force, and where it came from: `default`, a stack file's path, or `override`."""

    value: str
    source: str
    secret: bool = False

    def __repr__(self) -> str:
        return f"Setting(value={'[secret]' if self.secret else self.value!r}, source={self.source!r})"


@dataclass(frozen=True, slots=True)
class Project:
    """What `Pulumi.yaml` says that a recording needs."""

    root: Path
    name: str
    stacks: Path
    schema: Mapping[str, Any]

    @classmethod
    def load(cls, root: Path = ROOT) -> "Project":
        document = yaml.safe_load((root / "Pulumi.yaml").read_text())
        return cls(root, document["name"], root / document.get("stackConfigDir", "."), document.get("config", {}))

    def stack_names(self) -> list[str]:
        """Stacks that have a file, in alphabetical order."""
        return sorted(path.name.split(".")[1] for path in self.stacks.glob("Pulumi.*.yaml"))

    def settings(self, stack: str, overrides: Mapping[str, str] | None = None) -> dict[str, Setting]:
        """Every configuration key of a stack, namespaced, with the defaults that the command would inject.

        Raises UnknownStackError when the stack has no file.
        """
        path = self.stacks / f"Pulumi.{stack}.yaml"
        if not path.is_file():
            known = ", ".join(self.stack_names()) or "none"
            raise UnknownStackError(f"there is no stack {stack!r}; stacks that exist: {known}")
        settings = {
            self._namespaced(key): Setting(_text(default), "default")
            for key, entry in self.schema.items()
            if (default := _default(entry)) is not None
        }
        in_file = (yaml.safe_load(path.read_text()) or {}).get("config") or {}
        source = str(path.relative_to(self.root))
        for key, value in in_file.items():
            secret = isinstance(value, dict) and "secure" in value
            settings[self._namespaced(key)] = Setting("" if secret else _text(value), source, secret)
        for key, value in (overrides or {}).items():
            settings[self._namespaced(key)] = Setting(value, "override")
        return settings

    def _namespaced(self, key: str) -> str:
        return key if ":" in key else f"{self.name}:{key}"


def _default(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    return entry.get("default", entry.get("value"))


def _text(value: Any) -> str:
    """The command hands every value to the program as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
