"""What the environment of a task says, read once, checked as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import TypeVar
from urllib.parse import urlsplit

from app.budgets.window import zone_of

ENVIRONMENT: tuple[str, ...] = (
    "PRODKIT_STACK",
    "PRODKIT_SERVICE",
    "PRODKIT_HOST",
    "PRODKIT_PORT",
    "PRODKIT_LOG_LEVEL",
    "PRODKIT_OPENAI_BASE_URL",
    "PRODKIT_OPENAI_SECRET_ARN",
    "PRODKIT_STATE_TABLE",
    "PRODKIT_LEDGER_TABLE",
    "PRODKIT_DOCUMENTS_BUCKET",
    "PRODKIT_QUEUE_URL",
    "PRODKIT_CACHE_ENDPOINT",
    "PRODKIT_CACHE_AUTH",
    "PRODKIT_CACHE_USER",
    "PRODKIT_CACHE_NAME",
    "PRODKIT_CACHE_MODE",
    "PRODKIT_APPCONFIG_APPLICATION",
    "PRODKIT_APPCONFIG_ENVIRONMENT",
    "PRODKIT_APPCONFIG_PROFILE",
    "PRODKIT_TOKEN_BUDGET_USD",
    "PRODKIT_BUDGET_TIME_ZONE",
    "PRODKIT_ALERT_TOPIC_ARN",
    "PRODKIT_MAX_STREAM_SECONDS",
    "PRODKIT_HEARTBEAT_SECONDS",
    "PRODKIT_KEEP_ALIVE_SECONDS",
    "PRODKIT_REQUEST_TIMEOUT_SECONDS",
    "PRODKIT_DRAIN_SECONDS",
    "PRODKIT_READINESS_GRACE_SECONDS",
    "PRODKIT_TCP_KEEP_ALIVE_SECONDS",
    "PRODKIT_DEFER_COLLECT_SECONDS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
"""Every name the app reads and the task definition sets."""

PLATFORM_ENVIRONMENT: tuple[str, ...] = (
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "ECS_CONTAINER_METADATA_URI_V4",
    "ECS_AGENT_URI",
)
"""Names the app reads that ECS sets (a laptop's runtime in its place); a task definition never does."""

SERVICES = ("web", "worker")
LOG_LEVELS = ("debug", "info", "warning", "error")
CACHE_AUTHS = ("iam", "none")
CACHE_MODES = ("cluster", "single")
MAX_PORT = 65_535
MAX_BUDGET_USD = 1_000_000_000
MAX_TIMEOUT_SECONDS = 3_600  # an ALB's longest deregistration delay bounds every other time

MAX_DEFER_SECONDS = 900  # the longest that SQS delays a message

T = TypeVar("T")


class SettingsError(ValueError):
    """The environment cannot be used; the message has one line for each variable that is missing or bad."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The environment of this task is incomplete:\n" + "\n".join(f"  {line}" for line in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Settings:
    """A task's settings. It names secrets by ARN and holds none, so its repr may be logged."""

    stack: str
    service: str
    """`web` or `worker`."""
    host: str
    """Address to listen on: every one of a task's own network interface, loopback on a laptop."""
    port: int
    log_level: str
    openai_base_url: str
    """Without a trailing slash, ends in `/v1` as a rule."""
    openai_secret_arn: str
    state_table: str
    ledger_table: str
    documents_bucket: str
    queue_url: str
    cache_host: str
    cache_port: int
    cache_auth: str
    """`iam` (TLS and a signed token) or `none` (plain TCP, laptops only)."""
    cache_user: str
    cache_name: str
    cache_mode: str
    """`cluster` or `single`."""
    appconfig_application: str
    """Empty together with the two below: the models document inside the image is used."""
    appconfig_environment: str
    appconfig_profile: str
    token_budget_usd: int
    """What everything together may cost at OpenAI in a month, where no other limit was set."""
    budget_zone: tzinfo
    """Whose days and months budgets are for."""
    alert_topic_arn: str
    """SNS topic of alerts; empty = they are in the log alone."""
    max_stream_seconds: int
    heartbeat_seconds: int
    keep_alive_seconds: int
    request_timeout_seconds: int
    drain_seconds: int
    readiness_grace_seconds: int
    tcp_keep_alive_seconds: int
    defer_collect_seconds: int
    """For which requests that may wait are gathered into one batch; also the least pause between looks at it."""
    aws_region: str
    otlp_endpoint: str = ""
    """Base address of an OpenTelemetry collector that takes OTLP over HTTP; empty: nothing is exported."""
    aws_endpoint_url: str | None = None
    """Address of an emulated AWS; None = the real one."""
    metadata_uri: str | None = None
    """ECS task metadata v4 base address; None outside ECS."""
    agent_uri: str | None = None
    """The ECS agent's address inside the task, for its protection; None outside ECS."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Settings out of `environ`; raises SettingsError that names every missing or bad variable at once."""
        read = Reader(environ)
        host, port = read.value("PRODKIT_CACHE_ENDPOINT", _endpoint, ("", 0))
        settings = cls(
            stack=read.text("PRODKIT_STACK"),
            service=read.choice("PRODKIT_SERVICE", SERVICES),
            host=read.text("PRODKIT_HOST"),
            port=read.integer("PRODKIT_PORT", 1, MAX_PORT),
            log_level=read.choice("PRODKIT_LOG_LEVEL", LOG_LEVELS),
            openai_base_url=read.value("PRODKIT_OPENAI_BASE_URL", address, ""),
            openai_secret_arn=read.text("PRODKIT_OPENAI_SECRET_ARN"),
            state_table=read.text("PRODKIT_STATE_TABLE"),
            ledger_table=read.text("PRODKIT_LEDGER_TABLE"),
            documents_bucket=read.text("PRODKIT_DOCUMENTS_BUCKET"),
            queue_url=read.value("PRODKIT_QUEUE_URL", address, ""),
            cache_host=host,
            cache_port=port,
            cache_auth=read.choice("PRODKIT_CACHE_AUTH", CACHE_AUTHS),
            cache_user=read.optional("PRODKIT_CACHE_USER"),
            cache_name=read.optional("PRODKIT_CACHE_NAME"),
            cache_mode=read.choice("PRODKIT_CACHE_MODE", CACHE_MODES),
            appconfig_application=read.optional("PRODKIT_APPCONFIG_APPLICATION"),
            appconfig_environment=read.optional("PRODKIT_APPCONFIG_ENVIRONMENT"),
            appconfig_profile=read.optional("PRODKIT_APPCONFIG_PROFILE"),
            token_budget_usd=read.integer("PRODKIT_TOKEN_BUDGET_USD", 0, MAX_BUDGET_USD),
            budget_zone=read.value("PRODKIT_BUDGET_TIME_ZONE", zone_of, zone_of("UTC")),
            alert_topic_arn=read.optional("PRODKIT_ALERT_TOPIC_ARN"),
            max_stream_seconds=read.seconds("PRODKIT_MAX_STREAM_SECONDS"),
            heartbeat_seconds=read.seconds("PRODKIT_HEARTBEAT_SECONDS"),
            keep_alive_seconds=read.seconds("PRODKIT_KEEP_ALIVE_SECONDS", most=2 * MAX_TIMEOUT_SECONDS),
            request_timeout_seconds=read.seconds("PRODKIT_REQUEST_TIMEOUT_SECONDS"),
            drain_seconds=read.seconds("PRODKIT_DRAIN_SECONDS"),
            readiness_grace_seconds=read.seconds("PRODKIT_READINESS_GRACE_SECONDS", least=0),
            tcp_keep_alive_seconds=read.seconds("PRODKIT_TCP_KEEP_ALIVE_SECONDS"),
            defer_collect_seconds=read.seconds("PRODKIT_DEFER_COLLECT_SECONDS", most=MAX_DEFER_SECONDS),
            aws_region=read.text("AWS_REGION"),
            otlp_endpoint=read.optional_value("OTEL_EXPORTER_OTLP_ENDPOINT", address, ""),
            aws_endpoint_url=read.optional("AWS_ENDPOINT_URL") or None,
            metadata_uri=read.optional("ECS_CONTAINER_METADATA_URI_V4") or None,
            agent_uri=read.optional("ECS_AGENT_URI") or None,
        )
        read.problems += _contradictions(settings)
        if read.problems:
            raise SettingsError(read.problems)
        return settings

    @property
    def uses_appconfig(self) -> bool:
        """Whether the models document comes from AppConfig rather than from the image."""
        return bool(self.appconfig_application)


class Reader:
    """Reads variables and collects what is wrong with them instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def optional(self, name: str) -> str:
        """The value without spaces around it; empty when it is not set."""
        return self._environ.get(name, "").strip()

    def text(self, name: str) -> str:
        """A value that must be there."""
        return self.value(name, str, "")

    def value(self, name: str, parse: Callable[[str], T], otherwise: T) -> T:
        """A value as `parse` reads it; `otherwise` after a problem was noted. `parse`'s ValueError is the problem."""
        text = self.optional(name)
        if not text:
            self.problems.append(f"{name} is missing")
            return otherwise
        try:
            return parse(text)
        except ValueError as error:
            self.problems.append(f"{name}={text!r} {error}")
            return otherwise

    def optional_value(self, name: str, parse: Callable[[str], T], otherwise: T) -> T:
        """The same of a variable that may be empty; then it is `otherwise`."""
        return self.value(name, parse, otherwise) if self.optional(name) else otherwise

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`."""

        def parse(text: str) -> str:
            if text not in choices:
                raise ValueError(f"is not one of {', '.join(choices)}")
            return text

        return self.value(name, parse, "")

    def integer(self, name: str, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""

        def parse(text: str) -> int:
            if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
                raise ValueError(f"is not a whole number from {least} to {most}")
            return int(text)

        return self.value(name, parse, least)

    def seconds(self, name: str, least: int = 1, most: int = MAX_TIMEOUT_SECONDS) -> int:
        """A whole number of seconds."""
        return self.integer(name, least, most)


def address(text: str) -> str:
    """An http(s) address without a slash at the end; its ValueError continues the sentence `name=value ...`."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("is not an http(s) address without credentials")
    return text.rstrip("/")


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= MAX_PORT:
        raise ValueError("is not host:port")
    return host.strip("[]"), int(port)


def _contradictions(settings: Settings) -> list[str]:
    """What is wrong between variables that are each fine alone."""
    problems = []
    if settings.cache_auth == "iam":
        for name, value in (("PRODKIT_CACHE_USER", settings.cache_user), ("PRODKIT_CACHE_NAME", settings.cache_name)):
            if not value:
                problems.append(f"{name} is missing; PRODKIT_CACHE_AUTH=iam signs it into the token")
    parts = {
        "PRODKIT_APPCONFIG_APPLICATION": settings.appconfig_application,
        "PRODKIT_APPCONFIG_ENVIRONMENT": settings.appconfig_environment,
        "PRODKIT_APPCONFIG_PROFILE": settings.appconfig_profile,
    }
    missing = [name for name, value in parts.items() if not value]
    if 0 < len(missing) < len(parts):
        problems += [f"{name} is missing; set all three PRODKIT_APPCONFIG_* or none" for name in missing]
    return problems
