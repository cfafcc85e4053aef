from hypothesis import given
from hypothesis import strategies as st

from components import _task


def container(environment: dict[str, str]) -> dict[str, object]:
    return _task.container(
        image="repo@sha256:" + "a" * 64,
        command=["python", "-m", "app", "web"],
        environment=environment,
        port=8080,
        health_check_command=_task.HEALTH_COMMAND,
        stop_timeout_seconds=120,
        log_group="web-log",
        region="us-east-1",
        stream_prefix="web",
    )


def test_a_container_can_do_nothing_that_the_app_does_not_need() -> None:
    made = container({})
    assert made["readonlyRootFilesystem"] is True
    assert made["user"] == "10001:10001"
    assert made["linuxParameters"] == {"capabilities": {"drop": ["ALL"]}, "initProcessEnabled": True}
    assert made["mountPoints"] == [{"sourceVolume": "tmp", "containerPath": "/tmp", "readOnly": False}]


def test_a_slow_log_never_stops_the_app() -> None:
    assert container({})["logConfiguration"] == {
        "logDriver": "awslogs",
        "options": {
            "awslogs-group": "web-log",
            "awslogs-region": "us-east-1",
            "awslogs-stream-prefix": "web",
            "max-buffer-size": "25m",
            "mode": "non-blocking",
        },
    }


def test_the_health_check_asks_the_app_itself() -> None:
    assert container({})["healthCheck"] == {
        "command": ["CMD", "python", "-m", "app", "health"],
        "interval": 30,
        "timeout": 10,
        "retries": 3,
        "startPeriod": 60,
    }


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_the_order_of_variables_never_makes_a_new_revision(environment: dict[str, str]) -> None:
    backwards = dict(reversed(list(environment.items())))
    assert container(environment) == container(backwards)
    assert container(environment)["environment"] == [{"name": n, "value": environment[n]} for n in sorted(environment)]
