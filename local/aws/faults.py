"""Refusals that a test has ordered: the next call of an operation answered here fails with a code of AWS's."""

from typing import Any

from local.aws import state


def _armed() -> dict[Any, Any]:
    return state.table("*", "*", "*", "faults")


def arm(operation: str, code: str, message: str, times: int) -> None:
    """Refuse the next calls of `service:Operation`."""
    _armed()[operation] = (code, message, times)


def due(operation: str) -> tuple[str, str] | None:
    """Code and message when the next call of this operation is to fail; each is told once."""
    code, message, times = _armed().get(operation, ("", "", 0))
    if not times:
        return None
    _armed()[operation] = (code, message, times - 1)
    return code, message
