"""What docs/budgets.md says to try, as it stands there, against a run of its own: the ladder, the cap, the evidence."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.aws import Aws
from app.ledger import MONTHLY, Ledger
from app.ledger.watch import QUIET_HEARTBEAT_SECONDS, boot_of
from app.prices import PICO_PER_USD
from local.children import ROOT
from tests.local.test_up import Up, finished, start

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through /proc"),
]
LIMIT = PICO_PER_USD // 10
SECONDS = 120.0
BEAT_SECONDS = QUIET_HEARTBEAT_SECONDS + 2.0
"""Every living process says so within this time."""
RUNGS = ("shorter", "cheaper", "cached", "deferred", "priority")


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    run = start("--port", "0")
    yield run
    run.process.send_signal(signal.SIGINT)
    finished(run)


def parts() -> list[str]:
    """The commands of each part of "Try it"."""
    page = (ROOT / "docs/budgets.md").read_text().partition("## Try it\n")[2].partition("\n## ")[0]
    return ["\n".join(re.findall(r"^    (.*)", text, re.MULTILINE)) for text in re.split(r"^\*\*", page, flags=re.M)]


def variables(up: Up) -> str:
    [line] = [line for line in up.screen.splitlines() if line.startswith("  ADDRESS=")]
    return line


def run(up: Up, commands: str) -> str:
    """What they print; they may go on after one that fails, as in a terminal."""
    text = f"{variables(up)}\n{parts()[0]}\n{commands}"
    done = subprocess.run(["bash", "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    return done.stdout + done.stderr


async def spend_and_suspend(up: Up, commands: str) -> str:
    """What the commands print. The lease of the replica whose heart does not beat meanwhile is put in suspense, as its
    watcher does once it has stood still for DEAD_SECONDS."""
    found = dict(re.findall(r"(\w+)=(\S+)", variables(up)))
    aws = Aws(found["AWS_REGION"], found["AWS_ENDPOINT_URL"])
    ledger = Ledger(aws, found["PRODKIT_LEDGER_TABLE"])
    try:
        window = ledger._window(MONTHLY).name
        item = await ledger.table.read("org", window)
        assert item is not None
        before = await ledger.table.beats({boot_of(handle) for handle in item.slots})
        began = time.monotonic()
        said = await asyncio.to_thread(run, up, commands)
        await asyncio.sleep(max(0.0, began + BEAT_SECONDS - time.monotonic()))
        after = await ledger.table.beats(before)
        item = await ledger.table.read("org", window)
        assert item is not None
        assert item.avail + item.used + item.leased + item.suspense == LIMIT
        dead = {boot for boot in before if before[boot] == after[boot]}
        assert len(dead) == 1
        await ledger.sweep.suspend(ledger.table, window, dead)
        return said
    finally:
        aws.close()


def test_the_ladder_the_cap_and_the_evidence_are_as_the_docs_say(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    _, ladder, cap, evidence = parts()
    said = run(up, ladder)
    assert "this service may spend $0.10 each month" in said
    shown = re.findall(r"^ +\d+ (\w+) (gpt-\S+)$", said, re.MULTILINE)
    assert shown[0] == ("normal", "gpt-6.2-sol"), said
    assert {rung for rung, _ in shown[1:]} <= {*RUNGS}, said
    kill, spend = cap.splitlines()
    run(up, kill)
    said = asyncio.run(spend_and_suspend(up, spend))
    assert "The monthly budget of the organisation has no room for this request" in said
    assert "python -m app.budgets set org month USD --why" in said
    assert re.search(r"^ +\d+ \w+ gpt-6.1-terra$", said, re.MULTILINE), said
    said = run(up, evidence)
    report = re.search(r"entries, \$([0-9.]+); OpenAI billed \$([0-9.]+); 0 unexplained; suspense resolved", said)
    assert report is not None, said
    assert float(report[1]) == float(report[2]) <= 0.10
    before, after = re.findall(r"^org +M\S+ +\$0\.10 +(.*)", said, re.MULTILINE)
    assert before.split()[2] != "$0.00"
    assert after.split()[2] == "$0.00"
