"""`make up`'s own code as a newcomer uses it: one run, from the first line to nothing left behind."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from local.children import ROOT
from tests.patience import PATIENCE_SECONDS

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through /proc"),
]

START_SECONDS = 120
STOP_SECONDS = 60
OPENAI_KEY = re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")


@dataclass
class Up:
    """A run of `python -m local up`, and what its screen says."""

    process: "subprocess.Popen[str]"
    screen: str
    address: str
    key: str
    logs: Path

    def log(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of one process's log."""
        lines = (self.logs / f"{name}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def post(self, path: str, body: Mapping[str, object], key: str | None = None) -> bytes:
        """The body of an answer, whatever its status."""
        headers = {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.read()

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=self.key, max_retries=0)


def start(*arguments: str) -> Up:
    command = [sys.executable, "-m", "local", "up", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    screen = ""
    for line in process.stdout:
        screen += line
        if line.startswith("Ctrl-C drains"):
            break
    else:
        pytest.fail(f"the run ended before it was up:\n{screen}")
    found = {name: re.search(rf"^  {name} +(\S+)", screen, re.MULTILINE) for name in ("address", "API key", "logs")}
    address, key, logs = (match.group(1) for match in found.values() if match)
    return Up(process, screen, address, key, Path(logs))


def descendants(root: int) -> set[int]:
    """Every process below one, from the kernel's table."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {root}} - found:
        found |= more
    return found


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def finished(run: Up) -> int:
    try:
        return run.process.wait(STOP_SECONDS)
    finally:
        run.process.kill()
        if run.process.stdout is not None:
            run.process.stdout.close()


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    run = start("--port", "0")
    yield run
    if run.process.poll() is None:  # when only some tests were asked for
        run.process.send_signal(signal.SIGINT)
        finished(run)


def test_the_first_streamed_answer_comes_through_the_official_client(up: Up) -> None:
    with up.client() as client:
        events = list(client.responses.create(model="fast", input="Say hello", stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_the_commands_on_the_screen_work_as_they_are(up: Up) -> None:
    commands = [
        line.strip() for line in up.screen.splitlines() if line.startswith(("  curl ", "  A=")) or " -c " in line
    ]
    assert len(commands) == 3
    said = [
        subprocess.run(["bash", "-c", one], cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS)
        for one in commands
    ]
    assert [one.returncode for one in said] == [0, 0, 0]
    assert "response.completed" in said[0].stdout
    assert "21:47" in said[1].stdout
    assert said[2].stdout.strip()


def test_make_kill_without_a_stack_stops_this_run_and_says_so_and_how_to_undo_it(up: Up) -> None:
    [line] = [line.strip() for line in up.screen.splitlines() if line.startswith("  make kill ")]

    def run(command: str) -> "subprocess.CompletedProcess[str]":
        parts = ["make", "--no-print-directory", "--assume-old", ".venv/.installed", *shlex.split(command)[1:]]
        return subprocess.run(parts, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)

    def ask() -> str:
        answer = json.loads(up.post("/v1/responses", {"model": "fast", "input": secrets.token_hex(8)}))
        return str((answer.get("error") or {}).get("code"))

    assert ask() == "None"
    killed = run(line)
    assert killed.returncode == 0
    assert f"This was the run of make up at {up.address}, and no deployed stack." in killed.stdout
    until(lambda: {ask() for _ in range(4)} == {"spending_held"})
    [undo] = re.findall(r"(?i)undo: (.*)", killed.stdout)
    undone = run(undo)
    assert undone.returncode == 0
    until(lambda: {ask() for _ in range(4)} == {"None"})
    assert run("make kill TENANT=nobody UNDO=1 WHY=x PORT=1").returncode != 0, "what is not held is not released"


def tried(up: Up) -> dict[str, str]:
    """What each part of "Try it" in docs/local.md prints, its commands run as they stand there; all parts at once."""
    [screens_line] = [line for line in up.screen.splitlines() if line.startswith("  ADDRESS=")]
    page = (ROOT / "docs/local.md").read_text().partition("## Try it\n")[2].partition("\n## ")[0]
    texts = re.split(r"^\*\*(.+?)\*\*", page, flags=re.MULTILINE)
    first, *parts = ["\n".join(re.findall(r"^    (.*)", text, re.MULTILINE)) for text in texts[::2]]
    runs = {
        name: subprocess.Popen(
            ["bash", "-c", f"{screens_line}\n{first}\n{commands}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for name, commands in zip(texts[1::2], parts, strict=True)
    }
    try:
        return {name: run.communicate(timeout=PATIENCE_SECONDS)[0] for name, run in runs.items()}
    finally:
        for run in runs.values():
            run.kill()
            run.communicate()


def test_what_the_docs_say_to_try_does_what_they_say(up: Up) -> None:
    sky, document, key, batch, prompt = tried(up).values()
    *states, calls = sky.split()[1::2] + sky.split()[-1:]
    assert (sorted(states[:2]), states[2], calls) == (["join", "miss"], "hit", "1")
    when = re.findall(r"at ([0-9:]+)", document)
    assert when == ["21:47", "21:47", "22:15", "22:15"]
    assert re.findall(r'"cache":"([a-z]+)"', document) == ["miss", "hit", "miss", "hit"]
    *answered, refused = key.splitlines()
    waits = [int(line.split()[1]) if line.split()[1:] else 0 for line in answered]
    assert {line.split()[0] for line in answered} == {"200"}
    assert len(waits) == 32
    assert sum(wait > 1_000 for wait in waits) >= 2  # the bucket has 30, and another every two seconds
    assert re.fullmatch(r"429 +[12]", refused)
    batched, direct = (float(found) for found in re.findall(r"\$([0-9.]+)", batch))
    assert batched == pytest.approx(direct / 2, rel=0.1)  # two digits are shown
    assert re.findall(r":(\d+)", prompt)[0] == "0"
    share = re.search(r"(\d+) % from OpenAI's prompt cache", prompt)
    assert share is not None
    assert 30 < int(share[1]) < 50


def test_both_replicas_serve(up: Up) -> None:
    for number in range(4):
        up.post("/v1/responses", {"model": "fast", "input": f"question {number}"})
    for name in ("web-1", "web-2"):
        until(lambda name=name: any(line.get("event") == "request" for line in up.log(name)))  # type: ignore[misc]


def test_replicas_share_the_runs_cache(up: Up) -> None:
    with up.client() as client:
        asked = [client.responses.with_raw_response.create(model="fast", input="the same question") for _ in range(2)]
    assert [answer.headers["x-prodkit-cache"] for answer in asked] == ["miss", "hit"]


def test_a_document_is_read_by_the_worker_and_cited_by_the_answer(up: Up) -> None:
    body = {"name": "colours", "text": "The door of the northern lighthouse is painted vermilion."}
    document = json.loads(up.post("/documents", body))["id"]
    until(lambda: up.get(f"/documents/{document}")["status"] == "ready")
    answer = up.post("/ask", {"question": "What colour is the door of the northern lighthouse?"}).decode()
    assert document in answer
    assert "event: done" in answer
    assert any(line.get("document_id") == document for line in up.log("worker-1"))


def test_replicas_have_the_recorded_size(up: Up) -> None:
    """The metadata endpoint is the only place that tells a replica its size."""
    for pid in descendants(up.process.pid):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        for name, _, value in (one.partition("=") for one in environment):
            if name == "ECS_CONTAINER_METADATA_URI_V4":
                with urllib.request.urlopen(f"{value}/task", timeout=PATIENCE_SECONDS) as answer:
                    assert set(json.load(answer)["Limits"]) == {"CPU", "Memory"}


def test_a_second_run_on_the_same_port_says_who_holds_it(up: Up) -> None:
    port = up.address.rpartition(":")[2]
    command = [sys.executable, "-m", "local", "up", "--port", port]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS)
    assert second.returncode == 1
    assert f"port {port} is held by pid {up.process.pid} (" in second.stderr
    assert "make up PORT=" in second.stderr


def test_no_openai_key_is_in_a_log_an_environment_an_argument_or_an_error(up: Up) -> None:
    refusals = [
        up.post("/v1/responses", {"model": "fast", "input": "x"}, key="prodkit_000000000000_" + "x" * 43),
        up.post("/v1/responses", {"model": "no-such-model", "input": "x"}),
        up.post("/v1/responses", {"model": "fast"}),
    ]
    assert all(b'"error"' in refusal for refusal in refusals)
    texts = {str(path): path.read_text() for path in up.logs.iterdir()}
    texts |= {f"refusal {number}": refusal.decode() for number, refusal in enumerate(refusals)}
    for pid in descendants(up.process.pid) | {up.process.pid}:
        for part in ("environ", "cmdline"):
            texts[f"{pid} {part}"] = Path(f"/proc/{pid}/{part}").read_bytes().decode()
    assert len(texts) > 10
    assert [name for name, text in texts.items() if OPENAI_KEY.search(text)] == []
    assert [name for name, text in texts.items() if up.key in text] == []


def test_killing_a_replica_loses_no_later_request_and_another_takes_its_place(up: Up) -> None:
    (victim,) = [
        pid for pid in descendants(up.process.pid) if b"/web-1\0" in Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
    ]
    os.kill(victim, signal.SIGKILL)
    for number in range(3):
        answer = json.loads(up.post("/v1/responses", {"model": "fast", "input": f"after {number}"}))
        assert answer["status"] == "completed"
    for _ in range(30):
        assert up.get("/v1/models")["object"] == "list"

    def third_serves() -> bool:
        up.get("/v1/models")
        return any(line.get("event") == "request" for line in up.log("web-3"))

    until(third_serves)


def test_ctrl_c_leaves_no_process_no_port_and_no_directory(up: Up) -> None:
    started = descendants(up.process.pid)
    assert len(started) >= 6
    up.process.send_signal(signal.SIGINT)
    assert finished(up) == 0
    assert [pid for pid in started if exists(pid)] == []
    assert not up.logs.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(up.address.rpartition(":")[2])))


def test_the_real_api_is_used_with_a_key_that_no_child_ever_sees_and_a_second_ctrl_c_stops_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = f"sk-{secrets.token_urlsafe(24)}"
    monkeypatch.setenv("UPSTREAM", "openai")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    run = start("--port", "0", "--replicas", "1")
    try:
        started = descendants(run.process.pid)
        environments = [Path(f"/proc/{pid}/environ").read_text() for pid in started]
        assert sum("PRODKIT_OPENAI_BASE_URL=https://api.openai.com/v1\0" in one for one in environments) == 2
        assert [one for one in environments if key in one] == []
        assert key not in run.screen + "".join(path.read_text() for path in run.logs.iterdir())
        assert "simulator" not in run.screen
        run.process.send_signal(signal.SIGTERM)
        assert run.process.stdout is not None
        assert "draining" in run.process.stdout.readline()
        run.process.send_signal(signal.SIGTERM)
        said = run.process.stdout.read()
        assert finished(run) == 0
    finally:
        run.process.kill()  # a failed assertion must leave nothing behind: the guard ends the rest
        run.process.wait()
    assert "stopped at once" in said
    assert [pid for pid in started if exists(pid)] == []
    assert not run.logs.exists()


def test_ctrl_c_while_it_starts_is_clean_too() -> None:
    command = [sys.executable, "-m", "local", "up", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    started = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 130
    assert "stopped before it was up" in said
    assert [pid for pid in started if exists(pid)] == []


def test_a_start_that_fails_says_why_and_keeps_only_its_logs() -> None:
    command = [sys.executable, "-m", "local", "up", "--port", "0", "--stack", "nowhere"]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS)
    assert failed.returncode == 1
    assert "there is no stack 'nowhere'; stacks that exist: dev, prod, staging" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    logs = re.search(r"the end of (\S+)/prepare\.log", failed.stdout)
    assert logs is not None
    shutil.rmtree(logs.group(1))


@pytest.mark.parametrize(
    ("environment", "arguments", "fix"),
    [
        ({"UPSTREAM": "openai", "OPENAI_API_KEY": ""}, [], "needs OPENAI_API_KEY"),
        ({"UPSTREAM": "azure"}, [], "choose simulator or openai"),
        ({}, ["--port", "70000"], "not from 0 to 65535"),
        ({"PORT": "http"}, [], "--port: invalid int value: 'http'"),
        ({}, ["--replicas", "0"], "choose 1 to 20"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_fix(
    environment: dict[str, str], arguments: list[str], fix: str
) -> None:
    command = [sys.executable, "-m", "local", "up", *arguments]
    refused = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
    )
    assert refused.returncode == 2
    assert fix in refused.stderr
