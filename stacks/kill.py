"""`make kill`: which command of the app stops a stack's spending; the app's code writes the switch and the record."""

import argparse
import shlex
import sys

MOST_BY = 100  # characters the app keeps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said about it."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tenant", metavar="NAME", help="one tenant")
    what.add_argument("--key", metavar="KEY_ID", help="one prodkit key, by its 12 hex digits")
    what.add_argument("--model", metavar="MODEL", help="one model, by OpenAI's name")
    what.add_argument("--all", action="store_true", help="everything this stack pays OpenAI for")
    parser.add_argument("--undo", action="store_true", help="let it spend again")
    parser.add_argument("--why", default="", help="for the record and for whoever undoes it; needed")
    parser.add_argument("--dry-run", action="store_true", help="check and change nothing")


def command(given: argparse.Namespace, table: str, region: str, by: str) -> list[str]:
    """The command that does what was asked for, with the stack's table; `by` is who is signed in."""
    named = {kind: getattr(given, kind) for kind in ("tenant", "key", "model") if getattr(given, kind)}
    scope = "".join(f"{kind}:{name}" for kind, name in named.items()) or "org"
    again = "".join(f"{kind.upper()}={shlex.quote(name)}" for kind, name in named.items()) or "ALL=1"
    undo = f"make kill STACK={given.stack} {again} UNDO=1 WHY='...'"
    return [
        *(sys.executable, "-m", "app.budgets", "release" if given.undo else "hold", scope),
        *("--why", given.why, "--by", by[-MOST_BY:], "--table", table, "--region", region),
        *([] if given.undo else ["--undo-by", undo]),
        *(["--dry-run"] if given.dry_run else []),
    ]
