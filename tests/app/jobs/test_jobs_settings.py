from __future__ import annotations

import pytest

from app.jobs.settings import RotationSettings
from app.settings import SettingsError

GOOD = {
    "PRODKIT_STACK": "test",
    "PRODKIT_SERVICE": "rotate-key",
    "PRODKIT_LOG_LEVEL": "info",
    "PRODKIT_OPENAI_BASE_URL": "https://api.openai.com/v1",
    "PRODKIT_OPENAI_SECRET_ARN": "arn:key",
    "PRODKIT_OPENAI_ADMIN_SECRET_ARN": "arn:admin",
    "PRODKIT_OPENAI_PROJECT_ID": "proj_1",
    "PRODKIT_OPENAI_SERVICE_ACCOUNT_ID": "svc_acct_1",
    "PRODKIT_ROTATION_DAYS": "30",
    "PRODKIT_MAX_STREAM_SECONDS": "600",
    "AWS_REGION": "us-east-1",
}


def test_every_name_that_is_read_is_in_the_list() -> None:
    assert set(RotationSettings.environment()) == set(GOOD) - {"AWS_REGION"}
    read = RotationSettings.from_environment(GOOD)
    assert (read.rotation_days, read.max_stream_seconds, read.openai_admin_secret_arn) == (30, 600, "arn:admin")


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is missing"):
        RotationSettings.from_environment({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRODKIT_SERVICE", "web"),
        ("PRODKIT_ROTATION_DAYS", "0"),
        ("PRODKIT_ROTATION_DAYS", "91"),
        ("PRODKIT_OPENAI_BASE_URL", "ftp://api.openai.com"),
    ],
)
def test_a_bad_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        RotationSettings.from_environment({**GOOD, name: value})
