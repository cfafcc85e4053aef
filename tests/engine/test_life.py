"""A stack's whole life under the real engine, in an emulated AWS: with an interruption and a refusal on its way up."""

import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from preflight.project import Project
from stacks import emulated
from tests.engine.cycle import DRIFT, Life, Step, read_events

pytestmark = [pytest.mark.engine, pytest.mark.process]

STACK = "dev"
MADE_BEFORE_INTERRUPT = 40
REFUSED = b'{"operation": "budgets:CreateBudget", "code": "AccessDeniedException", "message": "not this time"}'


@dataclass
class Lived:
    """What each step did."""

    interrupted: Step
    refused: Step
    repaired: Step
    again: Step
    refresh: Step
    destroy: Step
    left: str
    """What the state holds at the end."""


@pytest.fixture(scope="module")
def lived(pulumi: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """The stack's life, once for all promises below: it takes minutes, most of them the provider's own waits."""
    aws = emulated.start(tmp_path_factory.mktemp("life") / "emulated", Project.load().name)
    try:
        life = Life(pulumi, STACK, aws)
        interrupted = _interrupted(life)
        urllib.request.urlopen(urllib.request.Request(f"{aws.url}/_emulator/refuse", data=REFUSED, method="POST"))
        yield Lived(
            interrupted,
            refused=life.run("up", "refused"),
            repaired=life.run("up", "repaired"),
            again=life.run("preview", "again"),
            refresh=life.run("refresh"),
            destroy=life.run("destroy"),
            left=life.step("left", "stack", "export", "--stack", STACK).text,
        )
    finally:
        aws.forget()


def _interrupted(life: Life) -> Step:
    command, events = life.command("interrupted", "up", "--yes", "--skip-preview")
    output = life.aws.folder / "interrupted.log"
    started = time.monotonic()
    with output.open("wb") as sink:
        up = subprocess.Popen(
            command, env=life.environment, cwd=Path(emulated.ROOT), stdout=sink, stderr=sink, start_new_session=True
        )
        while up.poll() is None and _made(events) < MADE_BEFORE_INTERRUPT:
            time.sleep(0.2)
        up.send_signal(signal.SIGINT)
        up.wait()
    step = Step("interrupted", up.returncode, time.monotonic() - started, output.read_text())
    read_events(events, step)
    return step


def _made(events: Path) -> int:
    return events.read_text().count('"resOutputsEvent"') if events.exists() else 0


def test_an_interrupted_up_stops_and_keeps_what_it_made(lived: Lived) -> None:
    assert lived.interrupted.status != 0
    assert lived.refused.counts.get("same", 0) >= MADE_BEFORE_INTERRUPT // 2


def test_a_refused_resource_fails_the_up_with_the_reason(lived: Lived) -> None:
    assert lived.refused.status != 0
    assert "not this time" in lived.refused.text


def test_the_next_up_makes_what_is_missing(lived: Lived) -> None:
    assert lived.repaired.status == 0, lived.repaired.text
    assert set(lived.repaired.counts) <= {"create", "same", "update"}
    assert lived.repaired.counts["create"] >= 1


def test_a_second_preview_and_a_refresh_find_nothing_to_do(lived: Lived) -> None:
    assert (lived.again.status, lived.again.drift) == (0, {})
    assert (lived.refresh.status, lived.refresh.drift) == (0, {})


def test_destroy_leaves_nothing(lived: Lived) -> None:
    assert lived.destroy.status == 0, lived.destroy.text
    assert '"aws:' not in lived.left


def test_known_drift_stays_short_and_explained() -> None:
    assert len(DRIFT) <= 3
    assert all(DRIFT.values())
