"""What the environment of each scheduled job says, read once, checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo

from app.budgets.window import zone_of
from app.settings import LOG_LEVELS, Reader, SettingsError, address

ROTATE_KEY = "rotate-key"
SETTLE_SUSPENSE = "settle-suspense"
MAX_ROTATION_DAYS = 90  # Security Hub's SecretsManager.4: a secret is rotated within 90 days

ROTATION_ENVIRONMENT: tuple[str, ...] = (
    "PRODKIT_STACK",
    "PRODKIT_SERVICE",
    "PRODKIT_LOG_LEVEL",
    "PRODKIT_OPENAI_BASE_URL",
    "PRODKIT_OPENAI_SECRET_ARN",
    "PRODKIT_OPENAI_ADMIN_SECRET_ARN",
    "PRODKIT_OPENAI_PROJECT_ID",
    "PRODKIT_OPENAI_SERVICE_ACCOUNT_ID",
    "PRODKIT_ROTATION_DAYS",
    "PRODKIT_MAX_STREAM_SECONDS",
)
"""Every name the rotation reads and its task definition sets."""


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """The rotation's settings. They name secrets by ARN and hold none, so their repr may be logged."""

    stack: str
    service: str
    """Always `rotate-key`: the metrics' dimension."""
    log_level: str
    openai_base_url: str
    openai_secret_arn: str
    openai_admin_secret_arn: str
    """The secret with the key of OpenAI's Admin API, which no other task may read."""
    openai_project_id: str
    openai_service_account_id: str
    """The service account whose keys are made and revoked."""
    rotation_days: int
    max_stream_seconds: int
    """The longest request: a replaced key stays valid for longer than that."""
    aws_region: str
    aws_endpoint_url: str | None = None
    """Address of an emulated AWS; None = the real one."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> RotationSettings:
        """Settings out of `environ`; raises SettingsError that names every missing or bad variable at once."""
        read = Reader(environ)
        settings = cls(
            stack=read.text("PRODKIT_STACK"),
            service=read.choice("PRODKIT_SERVICE", (ROTATE_KEY,)),
            log_level=read.choice("PRODKIT_LOG_LEVEL", LOG_LEVELS),
            openai_base_url=read.value("PRODKIT_OPENAI_BASE_URL", address, ""),
            openai_secret_arn=read.text("PRODKIT_OPENAI_SECRET_ARN"),
            openai_admin_secret_arn=read.text("PRODKIT_OPENAI_ADMIN_SECRET_ARN"),
            openai_project_id=read.text("PRODKIT_OPENAI_PROJECT_ID"),
            openai_service_account_id=read.text("PRODKIT_OPENAI_SERVICE_ACCOUNT_ID"),
            rotation_days=read.integer("PRODKIT_ROTATION_DAYS", 1, MAX_ROTATION_DAYS),
            max_stream_seconds=read.seconds("PRODKIT_MAX_STREAM_SECONDS"),
            aws_region=read.text("AWS_REGION"),
            aws_endpoint_url=read.optional("AWS_ENDPOINT_URL") or None,
        )
        if read.problems:
            raise SettingsError(read.problems)
        return settings


SETTLING_ENVIRONMENT: tuple[str, ...] = (
    "PRODKIT_STACK",
    "PRODKIT_SERVICE",
    "PRODKIT_LOG_LEVEL",
    "PRODKIT_OPENAI_BASE_URL",
    "PRODKIT_OPENAI_ADMIN_SECRET_ARN",
    "PRODKIT_LEDGER_TABLE",
    "PRODKIT_BUDGET_TIME_ZONE",
)
"""Every name that settling what is in suspense reads, and its task definition sets."""


@dataclass(frozen=True, slots=True)
class SettlingSettings:
    """The settings of settling what is in suspense. They name a secret by ARN and hold none."""

    stack: str
    service: str
    """Always `settle-suspense`: the metrics' dimension."""
    log_level: str
    openai_base_url: str
    openai_admin_secret_arn: str
    """The secret with the key of OpenAI's Admin API; empty where the stack has none, and then there is no bill."""
    ledger_table: str
    budget_zone: tzinfo
    """In which windows begin and end."""
    aws_region: str
    aws_endpoint_url: str | None = None
    """Address of an emulated AWS; None = the real one."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SettlingSettings:
        """Settings out of `environ`; raises SettingsError that names every missing or bad variable at once."""
        read = Reader(environ)
        settings = cls(
            stack=read.text("PRODKIT_STACK"),
            service=read.choice("PRODKIT_SERVICE", (SETTLE_SUSPENSE,)),
            log_level=read.choice("PRODKIT_LOG_LEVEL", LOG_LEVELS),
            openai_base_url=read.value("PRODKIT_OPENAI_BASE_URL", address, ""),
            openai_admin_secret_arn=read.optional("PRODKIT_OPENAI_ADMIN_SECRET_ARN"),
            ledger_table=read.text("PRODKIT_LEDGER_TABLE"),
            budget_zone=read.value("PRODKIT_BUDGET_TIME_ZONE", zone_of, zone_of("UTC")),
            aws_region=read.text("AWS_REGION"),
            aws_endpoint_url=read.optional("AWS_ENDPOINT_URL") or None,
        )
        if read.problems:
            raise SettingsError(read.problems)
        return settings
