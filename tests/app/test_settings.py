from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import ENVIRONMENT, PLATFORM_ENVIRONMENT, Settings, SettingsError
from tests.app.conftest import BASE_ENVIRONMENT

GOOD = BASE_ENVIRONMENT | {
    "PRODKIT_OPENAI_SECRET_ARN": "arn:aws:secretsmanager:us-east-1:123456789012:secret:openai-a1b2c3",
    "PRODKIT_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/ingest",
    "PRODKIT_CACHE_ENDPOINT": "cache.example:6379",
}
MAY_BE_EMPTY = {
    "PRODKIT_ALERT_TOPIC_ARN",
    "PRODKIT_CACHE_USER",
    "PRODKIT_CACHE_NAME",
    "PRODKIT_APPCONFIG_APPLICATION",
    "PRODKIT_APPCONFIG_ENVIRONMENT",
    "PRODKIT_APPCONFIG_PROFILE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}


class Recorder(dict[str, str]):
    """An environment that remembers which names were asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override] # one form is used
        self.asked.add(key)
        return super().get(key, default)


def problems(**changes: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(GOOD | changes)
    return caught.value.problems


def test_the_names_it_lists_are_the_names_it_reads() -> None:
    environ = Recorder(GOOD)
    Settings.from_environment(environ)
    assert environ.asked == set(ENVIRONMENT) | set(PLATFORM_ENVIRONMENT)
    assert len(set(ENVIRONMENT)) == len(ENVIRONMENT)


def test_values_arrive_with_their_types() -> None:
    settings = Settings.from_environment(GOOD | {"PRODKIT_OPENAI_BASE_URL": "https://api.openai.com/v1/"})
    assert settings.openai_base_url == "https://api.openai.com/v1"
    assert (settings.cache_host, settings.cache_port) == ("cache.example", 6379)
    assert settings.readiness_grace_seconds == 0
    assert settings.metadata_uri is None
    assert not settings.uses_appconfig


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({})
    missing = {line.removesuffix(" is missing") for line in caught.value.problems}
    assert missing == (set(ENVIRONMENT) - MAY_BE_EMPTY) | {"AWS_REGION"}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PRODKIT_PORT", "0", "PRODKIT_PORT='0' is not a whole number from 1 to 65535"),
        ("PRODKIT_PORT", "8080.0", "PRODKIT_PORT='8080.0' is not a whole number from 1 to 65535"),
        ("PRODKIT_PORT", "9" * 5000, "is not a whole number from 1 to 65535"),
        ("PRODKIT_SERVICE", "wbe", "PRODKIT_SERVICE='wbe' is not one of web, worker"),
        ("PRODKIT_CACHE_ENDPOINT", "cache", "PRODKIT_CACHE_ENDPOINT='cache' is not host:port"),
        ("PRODKIT_CACHE_ENDPOINT", "cache:x", "PRODKIT_CACHE_ENDPOINT='cache:x' is not host:port"),
        ("PRODKIT_CACHE_MODE", "sentinel", "PRODKIT_CACHE_MODE='sentinel' is not one of cluster, single"),
        ("PRODKIT_OPENAI_BASE_URL", "api.openai.com", "is not an http(s) address without credentials"),
        ("PRODKIT_OPENAI_BASE_URL", "https://u:p@api.openai.com", "is not an http(s) address without credentials"),
        ("PRODKIT_DRAIN_SECONDS", "0", "PRODKIT_DRAIN_SECONDS='0' is not a whole number from 1 to 3600"),
    ],
)
def test_a_bad_value_is_refused_with_what_would_be_good(name: str, value: str, text: str) -> None:
    (problem,) = problems(**{name: value})
    assert text in problem


def test_iam_needs_a_user_and_a_name_to_sign() -> None:
    found = problems(PRODKIT_CACHE_AUTH="iam", PRODKIT_CACHE_USER="", PRODKIT_CACHE_NAME="")
    assert [line.split()[0] for line in found] == ["PRODKIT_CACHE_USER", "PRODKIT_CACHE_NAME"]


def test_appconfig_is_configured_whole_or_not_at_all() -> None:
    found = problems(PRODKIT_APPCONFIG_APPLICATION="abc1234")
    assert [line.split()[0] for line in found] == ["PRODKIT_APPCONFIG_ENVIRONMENT", "PRODKIT_APPCONFIG_PROFILE"]
    parts = {name: "abc1234" for name in GOOD if name.startswith("PRODKIT_APPCONFIG_")}
    assert Settings.from_environment(GOOD | parts).uses_appconfig


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.text(max_size=20)))
def test_any_environment_gives_settings_or_one_settings_error(changes: dict[str, str]) -> None:
    with contextlib.suppress(SettingsError):
        assert 1 <= Settings.from_environment(GOOD | changes).port <= 65535
