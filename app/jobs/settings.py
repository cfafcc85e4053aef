"""What the environment of each scheduled job says, read once, checked as a whole.

A field names its variable and how that is read; what a task definition has to set follows from the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Annotated, Any, Self, get_type_hints

from app.budgets.window import zone_of
from app.settings import LOG_LEVELS, PLATFORM_ENVIRONMENT, Reader, SettingsError, address

ROTATE_KEY = "rotate-key"
SETTLE_SUSPENSE = "settle-suspense"
MAX_ROTATION_DAYS = 90  # Security Hub's SecretsManager.4: a secret is rotated within 90 days


_Read = Callable[[Reader, str], Any]


@dataclass(frozen=True, slots=True)
class _Variable:
    """Where the value of a field is, and how it is read there."""

    name: str
    read: _Read = Reader.text


def _variables(settings: type[JobSettings]) -> dict[str, _Variable]:
    """The variable of each field."""
    hints = get_type_hints(settings, include_extras=True)
    return {field: hint.__metadata__[0] for field, hint in hints.items()}


def _one_of(*choices: str) -> _Read:
    return lambda read, name: read.choice(name, choices)


def _from(least: int, most: int) -> _Read:
    return lambda read, name: read.integer(name, least, most)


def _parsed(parse: Callable[[str], object], otherwise: object) -> _Read:
    return lambda read, name: read.value(name, parse, otherwise)


def _or_none(read: Reader, name: str) -> str | None:
    return read.optional(name) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What every job is told. It names secrets by ARN and holds none, so its repr may be logged."""

    stack: Annotated[str, _Variable("PRODKIT_STACK")]
    log_level: Annotated[str, _Variable("PRODKIT_LOG_LEVEL", _one_of(*LOG_LEVELS))]
    openai_base_url: Annotated[str, _Variable("PRODKIT_OPENAI_BASE_URL", _parsed(address, ""))]
    aws_region: Annotated[str, _Variable("AWS_REGION")]
    aws_endpoint_url: Annotated[str | None, _Variable("AWS_ENDPOINT_URL", _or_none)] = None
    """Address of an emulated AWS; None = the real one."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Settings out of `environ`; raises SettingsError that names every missing or bad variable at once."""
        read = Reader(environ)
        found = {field: variable.read(read, variable.name) for field, variable in _variables(cls).items()}
        if read.problems:
            raise SettingsError(read.problems)
        return cls(**found)

    @classmethod
    def environment(cls) -> tuple[str, ...]:
        """Every name that the job reads and its task definition sets."""
        names = (variable.name for variable in _variables(cls).values())
        return tuple(name for name in names if name not in PLATFORM_ENVIRONMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationSettings(JobSettings):
    """What the rotation of the OpenAI key is told."""

    service: Annotated[str, _Variable("PRODKIT_SERVICE", _one_of(ROTATE_KEY))]
    """Always `rotate-key`: the metrics' dimension."""
    openai_secret_arn: Annotated[str, _Variable("PRODKIT_OPENAI_SECRET_ARN")]
    openai_admin_secret_arn: Annotated[str, _Variable("PRODKIT_OPENAI_ADMIN_SECRET_ARN")]
    """The secret with the key of OpenAI's Admin API, which no other task may read."""
    openai_project_id: Annotated[str, _Variable("PRODKIT_OPENAI_PROJECT_ID")]
    openai_service_account_id: Annotated[str, _Variable("PRODKIT_OPENAI_SERVICE_ACCOUNT_ID")]
    """The service account whose keys are made and revoked."""
    rotation_days: Annotated[int, _Variable("PRODKIT_ROTATION_DAYS", _from(1, MAX_ROTATION_DAYS))]
    max_stream_seconds: Annotated[int, _Variable("PRODKIT_MAX_STREAM_SECONDS", Reader.seconds)]
    """The longest request: a replaced key stays valid for longer than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingSettings(JobSettings):
    """What settling what is in suspense is told."""

    service: Annotated[str, _Variable("PRODKIT_SERVICE", _one_of(SETTLE_SUSPENSE))]
    """Always `settle-suspense`: the metrics' dimension."""
    openai_admin_secret_arn: Annotated[str, _Variable("PRODKIT_OPENAI_ADMIN_SECRET_ARN", Reader.optional)]
    """The secret with the key of OpenAI's Admin API; empty where the stack has none, and then there is no bill."""
    ledger_table: Annotated[str, _Variable("PRODKIT_LEDGER_TABLE")]
    budget_zone: Annotated[tzinfo, _Variable("PRODKIT_BUDGET_TIME_ZONE", _parsed(zone_of, zone_of("UTC")))]
    """In which windows begin and end."""
