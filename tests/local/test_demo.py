"""A deployment as ECS does it, under live streams and new requests: `make demo-deploy`, smaller."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from local.callers import Questions, Stream
from local.children import ROOT
from local.demo import Outcome
from local.tasks import Departure

COMMAND = [sys.executable, "-m", "local", "demo-deploy"]
SECONDS = 300


Run = tuple[int, str]
"""Exit status and what was said."""


@pytest.fixture(scope="module")
def demonstrations() -> Iterator[tuple[Run, Run]]:
    """One as recorded and one with a short deregistration delay, at the same time: both mostly wait."""
    short = ["--streams", "4", "--words", "100", "--deregistration-delay", "0.5", "--replicas", "1"]
    commands = [[*COMMAND, "--streams", "10", "--words", "100"], [*COMMAND, *short]]
    started = [subprocess.Popen(one, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for one in commands]
    try:
        said = [one.communicate(timeout=SECONDS)[0].decode() for one in started]
    finally:
        for one in started:
            one.kill()
    yield (started[0].returncode, said[0]), (started[1].returncode, said[1])
    for logs in re.findall(r"logs are kept in (\S+)", "".join(said)):
        shutil.rmtree(logs)


@pytest.mark.process
def test_a_deploy_cuts_no_stream(demonstrations: tuple[Run, Run]) -> None:
    (status, said), _ = demonstrations
    assert status == 0, said
    assert re.search(r"^  streams cut +0/10  .*; 10 were live when the old replicas began", said, re.MULTILINE)
    asked = re.search(r"^  requests refused +0/(\d+)", said, re.MULTILINE)
    assert asked is not None
    assert int(asked[1]) > 20
    assert re.search(r"^  replicas replaced +2/2$", said, re.MULTILINE)


@pytest.mark.process
def test_a_deregistration_delay_shorter_than_the_streams_cuts_them_and_the_demonstration_says_how_many(
    demonstrations: tuple[Run, Run],
) -> None:
    _, (status, said) = demonstrations
    assert status == 1, said
    assert "FAILED: 4 of 4 streams were cut; number 1: " in said
    assert re.search(r"^  replicas replaced +1/1$", said, re.MULTILINE)


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
    refused = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
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
