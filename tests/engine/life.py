"""A stack's life under the real pulumi command in an emulated AWS: one call a step, read from its events."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
import yaml

from preflight.project import ROOT, Project
from stacks import emulated
from stacks.half_made import OPTION, half_made

# TYPE.PROPERTY -> why the emulated AWS answers it otherwise than AWS; a test keeps it short.
DRIFT: Final[Mapping[str, str]] = {}
STEP_SECONDS: Final = 1200
ORDERED_SECONDS: Final = 3.0
"""What has been in the making for so long was ordered, and is waited for."""
STEADY_WITHIN_SECONDS: Final = 60.0
"""For a moment in which all that is in the making is; then any moment will do."""
UNCHANGED: Final = frozenset({"same", "read", "refresh"})


@dataclass
class Step:
    """What one pulumi command did."""

    name: str
    status: int
    seconds: float
    text: str
    counts: dict[str, int] = field(default_factory=dict)
    """Operation -> number of resources."""
    drift: dict[str, list[str]] = field(default_factory=dict)
    """`type name` -> properties that differ without a known reason."""

    @property
    def line(self) -> str:
        """The step in one line."""
        counts = ", ".join(f"{number} {operation}" for operation, number in sorted(self.counts.items()))
        return f"{self.name:<16} {self.seconds:6.1f} s  {counts}"


class Life:
    """One stack in one emulated AWS: runs pulumi on a copy of the stack's file."""

    def __init__(self, command: str, stack: str, aws: emulated.Emulation) -> None:
        self._command, self.stack, self.aws = command, stack, aws
        document = yaml.safe_load((Project.load().stacks / f"Pulumi.{stack}.yaml").read_text())
        self._config: dict[str, Any] = document["config"]
        self._changed: dict[str, Any] = {}
        self.file = aws.config_file(stack, self._config)
        self._environment = {**aws.environment(self._config["aws:region"]), "PULUMI_DEBUG_COMMANDS": "true"}
        self._running: subprocess.Popen[str] | None = None
        self._over = False
        self._call("init", "stack", "init", stack, folder=aws.folder)

    @property
    def is_protected(self) -> bool:
        """Whether the stack refuses to be deleted."""
        setting = Project.load().settings(self.stack)["prodkit:protect"].value
        return setting.lower() == "true"

    def set(self, **settings: Any) -> None:
        """Change settings of the stack, in the copy of its file."""
        self._changed.update({f"prodkit:{key}": value for key, value in settings.items()})
        self.aws.config_file(self.stack, self._config, self._changed)

    def end(self) -> None:
        """End the step that runs, from another thread; no other begins."""
        self._over = True
        running = self._running
        if running:
            _kill(running)

    def run(self, verb: str, name: str = "") -> Step:
        """Preview, refresh or destroy, or `up` as `make up` runs it."""
        name = name or verb
        refreshing = [OPTION] if verb == "up" and half_made(self._exported()) else []
        return self._call(name, *self._arguments(verb, name), *refreshing, events=self._events(name))

    def interrupt(self, name: str, made: int) -> Step:
        """An `up` that gets SIGINT, as from Ctrl-C, once it has made so many resources."""
        arguments = self._arguments("up", name)
        with self._started(*arguments) as process:
            watch = threading.Thread(target=_interrupt, args=(process, self._events(name), made), daemon=True)
            watch.start()
            step = self._ended(name, process, self._events(name))
            watch.join()
        return step

    def ids(self, kind: str) -> list[str]:
        """What AWS calls the resources of one type."""
        resources = json.loads(self._exported())["deployment"]["resources"]
        return [one["id"] for one in resources if one["type"] == kind]

    def client(self, service: str) -> Any:
        """boto3's client of a service of this AWS."""
        session = boto3.Session(
            aws_access_key_id="test", aws_secret_access_key="test", region_name=self._config["aws:region"]
        )
        return session.client(service, endpoint_url=self.aws.url)  # type: ignore[call-overload]  # any service

    def held(self) -> dict[str, str]:
        """URN -> type of every resource in the state, components and providers left out."""
        resources = json.loads(self._exported())["deployment"].get("resources", [])
        left_out = ("pulumi:", "prodkit:")
        return {one["urn"]: one["type"] for one in resources if not one["type"].startswith(left_out)}

    def _exported(self) -> str:
        return self._call("export", "stack", "export", "--stack", self.stack).text

    def _events(self, name: str) -> Path:
        return self.aws.folder / f"{name.replace(' ', '-')}.events"

    def _arguments(self, verb: str, name: str) -> list[str]:
        apply = ("--diff",) if verb == "preview" else ("--yes", "--skip-preview")
        where = ("--config-file", str(self.file), "--stack", self.stack, "--event-log", str(self._events(name)))
        return [verb, *apply, *where, "--non-interactive", "--color", "never"]

    @contextlib.contextmanager
    def _started(self, *arguments: str, folder: Path = ROOT) -> Iterator["subprocess.Popen[str]"]:
        if self._over:
            raise RuntimeError("this life was ended")
        with subprocess.Popen(
            [self._command, *arguments],
            cwd=folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that it ends with its plugins, and only when it is told here
        ) as process:
            self._running = process
            try:
                yield process
            finally:
                self._running = None  # its number may be another process's from now on

    def _call(self, name: str, *arguments: str, events: Path | None = None, folder: Path = ROOT) -> Step:
        with self._started(*arguments, folder=folder) as process:
            return self._ended(name, process, events)

    def _ended(self, name: str, process: "subprocess.Popen[str]", events: Path | None) -> Step:
        started = time.monotonic()
        try:
            text, _ = process.communicate(timeout=STEP_SECONDS)
        finally:
            _kill(process)
        step = Step(name, process.returncode, time.monotonic() - started, text)
        (self.aws.folder / f"{name.replace(' ', '-')}.log").write_text(text)
        if events:
            read_events(events, step)
        return step


def _kill(process: "subprocess.Popen[str]") -> None:
    """End a command and its plugins; of no effect when they have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _interrupt(process: "subprocess.Popen[str]", events: Path, made: int) -> None:
    """Send SIGINT once so many are made, and what is being made is waited for: an order that is cut while it is on its
    way may have been taken or not, and Pulumi leaves it to people to find out."""
    begun: dict[str, float] = {}
    latest = time.monotonic() + STEADY_WITHIN_SECONDS
    while process.poll() is None:
        now = time.monotonic()
        done, begins = _progress(events)
        begun = {urn: begun.get(urn, now) for urn in begins}
        steady = begun and all(now - since >= ORDERED_SECONDS for since in begun.values())
        if done >= made and (steady or now >= latest):
            process.send_signal(signal.SIGINT)
            return
        time.sleep(0.1)


def _progress(events: Path) -> tuple[int, set[str]]:
    """How many resources are made, and the URNs of those that are being made, from the engine's event log."""
    made, making = 0, set()
    for line in events.read_text().splitlines(keepends=True) if events.exists() else ():
        if not line.endswith("\n"):
            break  # it is being written
        event = json.loads(line)
        if begins := event.get("resourcePreEvent"):
            if begins["metadata"]["op"] == "create" and not begins["metadata"]["type"].startswith(
                ("prodkit:", "pulumi:")
            ):
                making.add(begins["metadata"]["urn"])
        elif ends := event.get("resOutputsEvent") or event.get("resOpFailedEvent"):
            made += "resOutputsEvent" in event
            making.discard(ends["metadata"]["urn"])
    return made, making


def read_events(log: Path, step: Step) -> None:
    """Counts and drift of a step from the engine's event log."""
    for line in log.read_text().splitlines() if log.exists() else ():
        event = json.loads(line)
        if summary := event.get("summaryEvent"):
            step.counts = summary["resourceChanges"]
        elif change := (event.get("resourcePreEvent") or event.get("resOutputsEvent") or {}).get("metadata"):
            _note_drift(step, change)


def _note_drift(step: Step, change: Mapping[str, Any]) -> None:
    if change["op"] in UNCHANGED:
        return
    properties = list(change.get("detailedDiff") or change.get("diffs") or [change["op"]])
    unknown = [one for one in properties if f"{change['type']}.{one.split('.')[0].split('[')[0]}" not in DRIFT]
    if unknown:
        step.drift[f"{change['type']} {change['urn'].rpartition('::')[2]}"] = unknown
