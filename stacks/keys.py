"""How a field of the settings is called in configuration: `web_min_tasks` is `prodkit:webMinTasks`."""

from typing import Final

PROJECT: Final = "prodkit"
# Keys of the aws provider's own namespace that decide where a stack lands.
AWS_KEYS: Final = {"region": "aws:region", "account_ids": "aws:allowedAccountIds"}


def setting_key(field: str) -> str:
    """The whole configuration key of a field."""
    return AWS_KEYS.get(field) or f"{PROJECT}:{camel_case(field)}"


def camel_case(name: str) -> str:
    """`web_min_tasks` as `webMinTasks`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
