from __future__ import annotations

import http.server
import subprocess
import sys
import threading

import pytest

from app.__main__ import main
from tests.app.conftest import free_port
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("web", "worker", "health", "job"):
        assert command in done.stdout
    assert "rotate-key" in run("job", "--help").stdout


@pytest.mark.parametrize("command", ["web", "worker"])
def test_an_incomplete_environment_ends_the_start_with_every_missing_name(command: str) -> None:
    done = run(command, environment={"PRODKIT_STACK": "dev"})
    assert done.returncode == 2
    for name in ("PRODKIT_STATE_TABLE", "PRODKIT_QUEUE_URL", "PRODKIT_HEARTBEAT_SECONDS"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_names_every_variable_that_is_missing() -> None:
    done = run("job", "rotate-key", environment={"PRODKIT_STACK": "dev"})
    assert done.returncode == 2
    for name in ("PRODKIT_OPENAI_ADMIN_SECRET_ARN", "PRODKIT_ROTATION_DAYS"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("serve",), ("job",), ("job", "rotate-everything")])
def test_an_unknown_command_is_refused(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


class Alive(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health/live" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_is_what_the_process_on_this_port_says(monkeypatch: pytest.MonkeyPatch, status: int, code: int) -> None:
    monkeypatch.setattr(Alive, "status", status)
    with http.server.HTTPServer(("127.0.0.1", 0), Alive) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("PRODKIT_PORT", str(server.server_address[1]))
        assert main(["health"]) == code
        thread.join()


def test_health_fails_when_nobody_listens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PRODKIT_PORT", str(free_port()))
    assert main(["health"]) == 1
    assert "not alive" in capsys.readouterr().err


def test_the_gateway_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys, app.serving.web, app.serving.server;"
        "print([name for name in ('openai', 'numpy', 'boto3', 'jsonschema') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.stdout.strip() == "[]", done.stderr
