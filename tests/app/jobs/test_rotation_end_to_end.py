"""A gateway that keeps answering while the job, as a process of its own, replaces and then revokes its OpenAI key."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from typing import Any

import openai
import pytest

from app import secret
from app.jobs import rotate_key
from app.jobs.rotate_key import DAY_SECONDS
from app.jobs.settings import RotationSettings
from local.openai.organization import FIRST_PROJECT
from local.openai.server import running
from tests.app.conftest import CloudParts, wait_until
from tests.app.replica import Replica, openai_secret, prodkit_key, replica

pytestmark = pytest.mark.process


class Traffic(threading.Thread):
    """One caller after another until it is stopped."""

    def __init__(self, replica: Replica, key: str) -> None:
        super().__init__()
        self.replica = replica
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self.statuses: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):  # a pace below every limit
            body = json.dumps({"model": "fast", "input": f"question {len(self.statuses)}"}).encode()
            self.statuses.append(self.replica.send("POST", "/v1/responses", body, self.headers)[0])


def rotate(environment: dict[str, str], *options: str) -> list[dict[str, Any]]:
    """One run of the job; every line it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "job", "rotate-key", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def works(base_url: str, value: str) -> bool:
    """Whether OpenAI accepts a key."""
    with openai.OpenAI(api_key=value, base_url=base_url) as client:
        try:
            client.models.list()
        except openai.AuthenticationError:
            return False
    return True


def test_callers_notice_nothing_of_a_rotation(cloud: CloudParts, environment: dict[str, str]) -> None:
    client = cloud.client("secretsmanager")
    with running() as simulator:
        admin_key = f"sk-admin-{secrets.token_urlsafe(24)}"
        admin = openai.OpenAI(admin_api_key=admin_key, base_url=simulator.base_url)
        account = admin.admin.organization.projects.service_accounts.create(FIRST_PROJECT, name="app")
        assert account.api_key is not None
        arn = openai_secret(cloud, account.api_key.value)
        shared = {
            "PRODKIT_OPENAI_BASE_URL": simulator.base_url,
            "PRODKIT_OPENAI_SECRET_ARN": arn,
            "AWS_ENDPOINT_URL": cloud.url,
            "AWS_REGION": environment["AWS_REGION"],
        }
        job = {
            "PRODKIT_STACK": "test",
            "PRODKIT_SERVICE": "rotate-key",
            "PRODKIT_LOG_LEVEL": "info",
            "PRODKIT_OPENAI_ADMIN_SECRET_ARN": openai_secret(cloud, admin_key),
            "PRODKIT_OPENAI_PROJECT_ID": FIRST_PROJECT,
            "PRODKIT_OPENAI_SERVICE_ACCOUNT_ID": account.id,
            "PRODKIT_ROTATION_DAYS": "30",
            "PRODKIT_MAX_STREAM_SECONDS": "60",
            **shared,
        }
        lines = rotate(job, "--now")
        first = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
        assert [line["KeyAgeDays"] for line in lines if "KeyAgeDays" in line] == [0.0]

        with replica({**environment, **shared}) as gateway:
            traffic = Traffic(gateway, prodkit_key(cloud, "acme"))
            began = time.monotonic()
            traffic.start()
            rotate(job, "--now")
            second = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
            assert second["previous_key_id"] == first["key_id"]
            # A replica reads its secret at most so often; the real overlap is far longer than that.
            wait_until(lambda: time.monotonic() - began > secret.REFRESH_PAUSE_SECONDS)
            assert works(simulator.base_url, first["api_key"])
            tomorrow = time.time() + DAY_SECONDS
            assert rotate_key.run(RotationSettings.from_environment(job), clock=lambda: tomorrow) == 0
            assert not works(simulator.base_url, first["api_key"])
            answered = len(traffic.statuses)
            wait_until(lambda: len(traffic.statuses) > answered + 20)
            traffic.ended.set()
            traffic.join()
            assert set(traffic.statuses) == {200}
        used = {entry["key"] for entry in simulator.requests() if entry["path"] == "/v1/responses"}
        assert len(used) == 2
        everything = "".join([*gateway.lines, *map(json.dumps, lines)])
        assert not any(value in everything for value in (first["api_key"], second["api_key"], admin_key))
        admin.close()
