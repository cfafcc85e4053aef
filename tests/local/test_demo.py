"""A deployment as ECS does it, under live streams and new requests: `make demo-deploy`, smaller."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from local.callers import Questions, Stream
from local.children import ROOT
from local.demo import Outcome
from local.tasks import Departure

COMMAND = [sys.executable, "-m", "local", "demo-deploy"]
SECONDS = 300


def demonstrated(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.process
def test_a_deploy_cuts_no_stream() -> None:
    done = demonstrated("--streams", "10", "--words", "100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^  streams cut +0/10  .*; 10 were live when the old replicas began", done.stdout, re.MULTILINE)
    asked = re.search(r"^  requests refused +0/(\d+)", done.stdout, re.MULTILINE)
    assert asked is not None
    assert int(asked[1]) > 20
    assert re.search(r"^  replicas replaced +2/2$", done.stdout, re.MULTILINE)


@pytest.mark.process
def test_a_deregistration_delay_shorter_than_the_streams_cuts_them_and_the_demonstration_says_how_many() -> None:
    done = demonstrated("--streams", "4", "--words", "100", "--deregistration-delay", "0.5")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: 4 of 4 streams were cut; number 1: " in done.stdout
    logs = re.search(r"logs are kept in (\S+)", done.stdout)
    assert logs is not None
    subprocess.run(["rm", "-r", logs[1]], check=True)


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["--streams", "0"], "choose 1 to 100"),
        (["--words", "5"], "choose 20 to 600"),
        (["--deregistration-delay", "-1"], "takes 0 to 3600"),
        (["--replicas", "21"], "choose 1 to 20"),
    ],
)
def test_a_demonstration_that_makes_no_sense_is_refused_with_the_fix(arguments: list[str], fix: str) -> None:
    refused = demonstrated(*arguments)
    assert refused.returncode == 2
    assert fix in refused.stderr


def stream(number: int, opened_at: float = 1.0, ended_at: float = 9.0, problem: str | None = None) -> Stream:
    return Stream(number, opened_at=opened_at, ended_at=ended_at, problem=problem)


KEPT = Outcome(
    streams=[stream(1), stream(2)],
    questions=Questions(asked=5, answered=5),
    replicas=2,
    departures=[Departure("web-1", 4.0, 0, 0), Departure("web-2", 5.0, 0, 0)],
    failure=None,
)


def test_a_kept_promise_has_no_problem() -> None:
    assert KEPT.problems() == []


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (replace(KEPT, streams=[stream(1), stream(2, problem="gone")]), "1 of 2 streams were cut; number 2: gone"),
        (replace(KEPT, questions=Questions(5, 4, ["503: no target"])), "1 of 5 requests were refused; the first: 503"),
        (replace(KEPT, departures=KEPT.departures[:1]), "1 of 2 replicas were replaced"),
        (replace(KEPT, failure="web-3 ended with status 1"), "the deployment failed: web-3 ended with status 1"),
        (
            replace(KEPT, departures=[KEPT.departures[0], Departure("web-2", 5.0, 0, -9)]),
            "web-2 ended with SIGKILL, not in order",
        ),
        (replace(KEPT, streams=[stream(1), stream(2, ended_at=3.0)]), "only 1 of 2 streams were live"),
        (replace(KEPT, streams=[stream(1), stream(2, opened_at=6.0)]), "only 1 of 2 streams were live"),
    ],
)
def test_whatever_breaks_the_promise_is_told(outcome: Outcome, problem: str) -> None:
    (told,) = outcome.problems()
    assert told.startswith(problem)
