"""`make kill` without a stack: stops spending in the run of `make up` on this machine, or lets it go on."""

import argparse
import getpass
import shlex
import subprocess
import sys

from local.children import base_environment, python
from local.ports import HOST
from local.runs import Run, serving


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said about it; the app's own command checks the scope and the reason."""
    parser.add_argument("scope", help="org (everything), tenant:NAME, key:KEY_ID or model:MODEL")
    parser.add_argument("--undo", action="store_true", help="let it spend again")
    parser.add_argument("--why", default="", help="for the record and for whoever undoes it; needed")
    parser.add_argument("--port", type=int, help="where the run answers; only needed when several runs serve")


def kill_here(given: argparse.Namespace) -> int:
    """Hold what was named, or release it, in the run's state table; the exit status."""
    runs = serving()
    run = next((run for run in runs if run.port == given.port), runs[0] if len(runs) == 1 else None)
    if run is None:
        ports = ", ".join(str(run.port) for run in runs)
        several = f"{len(runs)} runs of make up serve here: say which by PORT=, one of {ports}"
        none = "no run of make up serves here: nothing was stopped. For a deployed stack name it: make kill STACK=dev"
        sys.stderr.write(f"prodkit: {several if runs else none}\n")
        return 2
    words = ["--why", given.why, "--by", getpass.getuser()]
    words += [] if given.undo else ["--undo-by", _undo(given.scope, run)]
    command = python("app.budgets", "release" if given.undo else "hold", given.scope, *words)
    status = subprocess.run(command, env={**base_environment(), **run.environment}).returncode
    if not status:
        sys.stdout.write(f"This was the run of make up at http://{HOST}:{run.port}, and no deployed stack.\n")
    return status


def _undo(scope: str, run: Run) -> str:
    """The command of make that lets it go on."""
    kind, _, name = scope.partition(":")
    named = f"{kind.upper()}={shlex.quote(name)}" if name else "ALL=1"
    return f"make kill {named} PORT={run.port} UNDO=1 WHY='...'"
