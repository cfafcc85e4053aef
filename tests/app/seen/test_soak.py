"""The soak itself: what it calls a leak, and that its machinery runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.epochs import Epochs
from local.openai.server import Running
from tests import ledger_check, soak
from tests.app.replica import Replica

FLAT = soak.Sample(80.0, 20, 60)


@given(st.lists(st.floats(-2, 2), min_size=40, max_size=120), st.floats(10, 500))
def test_noise_is_no_growth(noise: list[float], level: float) -> None:
    assert soak.growth("tasks", [level + each for each in noise], soak.COUNT_GROWTH, soak.COUNT_SHARE) == []


@given(st.integers(40, 120), st.floats(0.5, 5))
def test_a_steady_leak_is_growth(samples: int, each: float) -> None:
    values = [60 + each * number for number in range(samples)]
    found = soak.growth("descriptors", values, 1.0, 0.0)
    assert found
    assert "descriptors" in found[0]


def test_too_few_samples_are_no_proof() -> None:
    assert "too few" in soak.growth("tasks", [1, 1, 1], 8, 0.1)[0]


def test_growth_tasks_left_over_and_errors_without_a_reason_fail_a_run() -> None:
    good = soak.Outcome(FLAT, [FLAT] * 40, FLAT)
    good.seen.update(soak.MIX)
    assert good.problems() == []
    for field, grown in (("memory_mib", 200.0), ("tasks", 90), ("descriptors", 150)):
        values = dict(zip(("memory_mib", "tasks", "descriptors"), (80.0, 20, 60), strict=True))
        leaking = [soak.Sample(**(values | {field: grown})) if at > 30 else FLAT for at in range(40)]  # type: ignore[arg-type]
        bad = soak.Outcome(FLAT, leaking, FLAT, good.seen)
        assert len(bad.problems()) == 1
    assert soak.Outcome(FLAT, [FLAT] * 40, soak.Sample(80.0, 99, 60), good.seen).problems()
    assert soak.Outcome(FLAT, [FLAT] * 40, FLAT, good.seen, ["stream: 500"]).problems() == ["stream: 500"]
    assert "leaves" in soak.Outcome(FLAT, [FLAT] * 40, FLAT).problems()[0]


def test_a_counted_part_does_all_of_it_or_says_what_failed_or_was_not_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak.main(["cache", "ledger", "--steps", "4000", "--traces", "10", "--seed", "1"]) == 0
    assert "cache 100 %" in (said := capsys.readouterr().out)
    assert "ledger 100 %" in said
    assert soak.main(["ledger", "--traces", "10", "--minutes", "0"]) == 1
    assert "ledger: 0 of 10 in 0 minutes" in capsys.readouterr().out
    with ledger_check.mutant("close-without-number"):
        assert soak.main(["ledger", "--traces", "3000", "--seed", "0"]) == 1
    assert "ledger: in the 1000 from seed" in capsys.readouterr().out
    monkeypatch.setattr(Epochs, "stamp", lambda self, fields, now: ",".join("1-0" for _ in fields))
    assert soak.main(["cache", "--steps", "10000", "--seed", "0"]) == 1
    assert "cache: in the 10000 from seed 0: " in capsys.readouterr().out


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_a_few_seconds_of_the_soak_are_clean(gateway: Replica, upstream: Running, key: str) -> None:
    upstream.reset()
    before = len(gateway.lines)
    outcome = await soak.soak(gateway, upstream, key, seconds=4, rate=30, progress=False)
    upstream.reset()
    assert outcome.unexplained == [], gateway.lines[before:][-5:]
    assert outcome.seen["200"] > 40
    assert len(outcome.samples) == soak.SAMPLES
    # Too short to judge memory, which a new process still takes.
    assert outcome.after is not None
    assert outcome.after.tasks <= outcome.before.tasks + soak.IDLE_TASKS
