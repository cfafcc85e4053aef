"""`python -m tests.engine.cycle [STACK ...]`: takes stacks through their lives in an emulated AWS, a line a step.

Preview, up, a second preview and a refresh that find nothing, destroy. Where a stack is protected, AWS has to refuse to
delete its balancer and its tables first, and then a deployment lifts the protection. The pulumi command and plugins of
this machine are used, the project's files and anybody's state are not touched. `--beside FOLDER` does the same in a
second emulated AWS, somebody else's.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from botocore.exceptions import ClientError

from preflight.project import Project
from stacks import emulated
from tests.engine.life import DRIFT, Life, Step

LINES_SHOWN: Final = 25
PROTECTED: Final = re.compile(r"deletion ?protection ?(?:is )?enabled", re.IGNORECASE)
TABLE: Final = "aws:dynamodb/table:Table"
BALANCER: Final = "aws:lb/loadBalancer:LoadBalancer"


class Report:
    """Prints the steps of one life and keeps what went wrong."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.wrong: list[str] = []

    def add(self, step: Step, fine: bool) -> bool:
        """One step; whether it was fine."""
        print(f"{self._title:<16} {step.line}{'' if fine else '  FAILED'}", flush=True)
        if not fine:
            self.wrong.append(f"{self._title} {step.name}")
            print("\n".join(f"    {line}" for line in step.text.splitlines()[-LINES_SHOWN:]), flush=True)
        return fine

    def unchanged(self, step: Step) -> bool:
        """One step that should have found nothing to do."""
        for resource, properties in step.drift.items():
            print(f"    drift: {resource}: {', '.join(properties)}")
        return self.add(step, not step.status and not step.drift)


def refused(life: Life) -> Step:
    """Tries to delete what is protected, as somebody with the right to would: status 0 when AWS refuses each."""
    started, said, gone = time.monotonic(), [], 0
    tables, (balancer,) = life.ids(TABLE), life.ids(BALANCER)
    calls = [("elbv2", "delete_load_balancer", {"LoadBalancerArn": balancer})]
    calls += [("dynamodb", "delete_table", {"TableName": table}) for table in tables]
    for service, operation, arguments in calls:
        try:
            getattr(life.client(service), operation)(**arguments)
            gone += 1
            said.append(f"{operation} deleted {arguments}")
        except ClientError as refusal:
            said.append(str(refusal))
    text = "\n".join(said)
    fine = gone == 0 and len(PROTECTED.findall(text)) == len(calls)
    return Step("delete refused", 0 if fine else 1, time.monotonic() - started, text, {"refused": len(calls) - gone})


def live(life: Life, report: Report) -> None:
    """All of a stack's life, step by step."""

    def done(step: Step) -> bool:
        return report.add(step, not step.status)

    if not done(life.run("preview")):
        return
    if done(life.run("up")):
        report.unchanged(life.run("preview", "preview again"))
        report.unchanged(life.run("refresh"))
    if life.is_protected:
        done(refused(life))
        life.set(protect=False)
        done(life.run("up", "lift protection"))
    done(life.run("destroy"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Live through the named stacks, or all; the exit status."""
    project = Project.load()
    parser = argparse.ArgumentParser(prog="python -m tests.engine.cycle", description=__doc__)
    names = ", ".join(project.stack_names())
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=f"of {names}; default all")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="a Python package whose class Emulator is an AWS")
    parser.add_argument("--only-beside", action="store_true", help="leave out the emulated AWS of this repository")
    given = parser.parse_args(arguments)
    command = shutil.which("pulumi")
    problem = emulated.plugin_problem(os.environ) if command else "the pulumi command is not on PATH"
    if problem or command is None:
        print(f"cycle: {problem}", file=sys.stderr)
        return 2
    servers = {} if given.only_beside else {"here": emulated.SERVER}
    if given.beside:
        servers["beside"] = (sys.executable, "-m", "tests.engine.beside", str(given.beside.resolve()))
    wrong: list[str] = []
    for place, server in servers.items():
        for stack in given.stacks or project.stack_names():
            folder = Path(tempfile.mkdtemp(prefix=f"prodkit-{stack}-")) / "emulated"
            aws = emulated.start(folder, project.name, server)
            print(f"{stack} {place}: {aws.url}, logs in {aws.folder}", flush=True)
            report = Report(f"{stack} {place}")
            live(Life(command, stack, aws), report)
            wrong += report.wrong
            aws.end() if report.wrong else aws.forget()
    print(f"failed: {', '.join(wrong)}" if wrong else f"ok; known drift: {', '.join(DRIFT) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
