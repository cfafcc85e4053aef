"""`python -m tests.engine.cycle [STACK ...]`: takes stacks through their whole lives in an emulated AWS, a line a step.

Preview, up, a second preview and a refresh that find nothing, destroy; where a stack is protected, a deployment lifts
that first. The pulumi command and plugins of this machine are used, the project's files and anybody's state are not
touched. With AWS_ENDPOINT_URL the emulated AWS there is used instead of our own; it must be on this machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from preflight.project import ROOT, Project
from stacks import emulated

# TYPE.PROPERTY -> why the emulated AWS answers it otherwise than AWS; a test keeps it short.
DRIFT: Final[Mapping[str, str]] = {}
STEP_SECONDS: Final = 1200
LINES_SHOWN: Final = 25
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
    warnings: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The step in one line."""
        counts = ", ".join(f"{number} {operation}" for operation, number in sorted(self.counts.items()))
        return f"{self.name:<16} {self.seconds:6.1f} s  {counts}"


class Life:
    """One stack in one emulated AWS: runs pulumi on a copy of its file and reads what the engine says it did."""

    def __init__(self, command: str, stack: str, aws: emulated.Emulation) -> None:
        self._command, self.stack, self.aws = command, stack, aws
        self.config = _config(stack)
        self.file = aws.config_file(stack, self.config)
        self.environment = {**aws.environment(self.config["aws:region"]), "PULUMI_DEBUG_COMMANDS": "true"}
        self.step("init", "stack", "init", stack, folder=aws.folder)

    @property
    def is_protected(self) -> bool:
        """Whether the stack refuses to be deleted."""
        setting = Project.load().settings(self.stack)["prodkit:protect"].value
        return setting.lower() == "true"

    def set(self, **settings: Any) -> None:
        """Change settings of the stack, in the copy of its file."""
        self.aws.config_file(self.stack, self.config, {f"prodkit:{key}": value for key, value in settings.items()})

    def command(self, name: str, *arguments: str) -> tuple[list[str], Path]:
        """A pulumi command on the stack, and where its events go."""
        events = self.aws.folder / f"{name.replace(' ', '-')}.events"
        options = ["--config-file", str(self.file), "--stack", self.stack, "--event-log", str(events)]
        return [self._command, *arguments, *options, "--non-interactive", "--color", "never"], events

    def run(self, verb: str, name: str = "") -> Step:
        """Preview, up, refresh or destroy."""
        apply = ("--diff",) if verb == "preview" else ("--yes", "--skip-preview")
        command, events = self.command(name or verb, verb, *apply)
        return self.step(name or verb, *command[1:], events=events)

    def step(self, name: str, *arguments: str, events: Path | None = None, folder: Path = ROOT) -> Step:
        """One call of pulumi."""
        started = time.monotonic()
        done = subprocess.run(
            [self._command, *arguments],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
        )
        made = Step(name, done.returncode, time.monotonic() - started, done.stdout + done.stderr)
        (self.aws.folder / f"{name.replace(' ', '-')}.log").write_text(made.text)
        if events:
            read_events(events, made)
        return made


def read_events(log: Path, step: Step) -> None:
    """Counts, drift and warnings of a step from the engine's event log."""
    for line in log.read_text().splitlines() if log.exists() else ():
        event = json.loads(line)
        if summary := event.get("summaryEvent"):
            step.counts = summary["resourceChanges"]
        elif (message := event.get("diagnosticEvent")) and message["severity"] == "warning":
            step.warnings.append(message["message"].strip())
        elif change := (event.get("resourcePreEvent") or event.get("resOutputsEvent") or {}).get("metadata"):
            _note_drift(step, change)


def _note_drift(step: Step, change: Mapping[str, Any]) -> None:
    if change["op"] in UNCHANGED:
        return
    properties = list(change.get("detailedDiff") or change.get("diffs") or [change["op"]])
    unknown = [one for one in properties if f"{change['type']}.{one.split('.')[0].split('[')[0]}" not in DRIFT]
    if unknown:
        step.drift[f"{change['type']} {change['urn'].rpartition('::')[2]}"] = unknown


def _config(stack: str) -> dict[str, Any]:
    document = yaml.safe_load((Project.load().stacks / f"Pulumi.{stack}.yaml").read_text())
    config: dict[str, Any] = document["config"]
    return config


def live(life: Life) -> list[str]:
    """All of a stack's life, printed step by step; returns what went wrong."""
    wrong: list[str] = []

    def report(step: Step, *, unchanged: bool = False) -> bool:
        fine = not step.status and not (unchanged and step.drift)
        print(f"{life.stack:<8} {step.line}{'' if fine else '  FAILED'}", flush=True)
        for resource, properties in step.drift.items() if unchanged else ():
            print(f"    drift: {resource}: {', '.join(properties)}")
        if not fine:
            wrong.append(f"{life.stack} {step.name}")
            print("\n".join(f"    {line}" for line in step.text.splitlines()[-LINES_SHOWN:]), flush=True)
        return fine

    if not report(life.run("preview")):
        return wrong
    if report(life.run("up")):
        report(life.run("preview", "preview again"), unchanged=True)
        report(life.run("refresh"), unchanged=True)
    if life.is_protected:  # make destroy refuses before it begins: pulumi alone would delete what is not protected
        life.set(protect=False)
        report(life.run("up", "lift protection"))
    report(life.run("destroy"))
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Live through the named stacks, or all; the exit status."""
    project = Project.load()
    parser = argparse.ArgumentParser(prog="python -m tests.engine.cycle", description=__doc__)
    names = ", ".join(project.stack_names())
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=f"of {names}; default all")
    given = parser.parse_args(arguments)
    command, url = shutil.which("pulumi"), os.environ.get("AWS_ENDPOINT_URL")
    problem = emulated.plugin_problem(os.environ) if command else "the pulumi command is not on PATH"
    if url and not url.startswith(("http://127.", "http://localhost")):
        problem = f"AWS_ENDPOINT_URL={url} is not on this machine; stacks are only emulated here"
    if problem or command is None:
        print(f"cycle: {problem}", file=sys.stderr)
        return 2
    wrong: list[str] = []
    for stack in given.stacks or project.stack_names():
        folder = Path(tempfile.mkdtemp(prefix=f"prodkit-{stack}-"))
        aws = emulated.start(folder / "emulated", project.name, url)
        print(f"{stack:<8} on {aws.url}, logs in {aws.folder}", flush=True)
        failed = live(Life(command, stack, aws))
        wrong += failed
        aws.end() if failed else aws.forget()
    print(f"failed: {', '.join(wrong)}" if wrong else f"ok; known drift: {', '.join(DRIFT) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
