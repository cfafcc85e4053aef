"""Stop and resume spending, and see who did: `python -m app.budgets show|hold|release|log`."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from app.aws import Aws, error_code
from app.budgets import holds
from app.budgets.scope import described, scope_of

MOST_LOGGED = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 refused by AWS or nothing to release, 2 bad arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.table:
        parser.error("which table? set PRODKIT_STATE_TABLE or give --table (a stack exports its name as state_table)")
    if not options.region:
        parser.error("which region? set AWS_REGION or give --region")
    aws = Aws(options.region, os.environ.get("AWS_ENDPOINT_URL") or None)
    try:
        print(_RUN[options.verb](aws.client("dynamodb"), options))
        return 0
    except ValueError as error:
        parser.error(str(error))
    except LookupError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
    except Exception as error:
        print(
            f"{parser.prog}: table {options.table} in {options.region}: {error_code(error)}: {error}", file=sys.stderr
        )
    finally:
        aws.close()
    return 1


def _hold(client: Any, options: argparse.Namespace) -> str:
    scope = scope_of(options.scope)
    undo = f"python -m app.budgets release {scope}"
    if options.dry_run:
        holds.check_words(options.by, options.why)
        return f"would hold {scope}: new requests of {described(scope)} get 403 spending_held; undo: {undo}"
    made = holds.hold(client, options.table, scope, options.by, options.why, now=time.time())
    return (
        f"{scope} is held since {made.at} by {made.by}: {made.why}\n"
        f"Every replica refuses its new requests within two seconds; streams that run end by themselves. Undo: {undo}"
    )


def _release(client: Any, options: argparse.Namespace) -> str:
    scope = scope_of(options.scope)
    if options.dry_run:
        holds.check_words(options.by, options.why)
        held = holds.read(client, options.table).holds.get(scope)
        if held is None:
            raise LookupError(f"{scope} is not held")
        return f"would release {scope}, held since {held.at} by {held.by}: {held.why}"
    holds.release(client, options.table, scope, options.by, options.why, now=time.time())
    return f"{scope} is released; every replica serves it again within two seconds"


def _show(client: Any, options: argparse.Namespace) -> str:
    control = holds.read(client, options.table)
    lines = [f"{'HELD':<40} {'SINCE':<21} {'BY':<20} WHY"]
    lines += [f"{scope:<40} {held.at:<21} {held.by:<20} {held.why}" for scope, held in sorted(control.holds.items())]
    lines += ["", f"{'RUNG':<40} {'IS':<10} UNTIL"]
    for scope, standing in sorted(control.rungs.items()):
        lines.append(f"{scope:<40} {standing.rung.label:<10} {holds.moment(standing.until)}")
    return "\n".join(lines)


def _log(client: Any, options: argparse.Namespace) -> str:
    lines = [f"{'AT':<21} {'ACTION':<9} {'SCOPE':<40} {'BY':<20} WHY"]
    for audit in holds.history(client, options.table, most=options.most):
        detail = "".join(f" [{name} {value}]" for name, value in audit.detail.items())
        lines.append(f"{audit.at:<21} {audit.action:<9} {audit.scope:<40} {audit.by:<20} {audit.why}{detail}")
    return "\n".join(lines)


_RUN = {"hold": _hold, "release": _release, "show": _show, "log": _log}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.budgets", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(_RUN))
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--table", default=os.environ.get("PRODKIT_STATE_TABLE"), help="the state table; default $PRODKIT_STATE_TABLE"
    )
    shared.add_argument(
        "--region",
        default=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        help="of the table; default $AWS_REGION",
    )
    change = argparse.ArgumentParser(add_help=False)
    change.add_argument("scope", help="org (everything), tenant:NAME, key:KEY_ID or model:MODEL")
    change.add_argument("--why", required=True, help="for the record and for whoever releases it")
    change.add_argument("--by", default=_user(), help="for the record; default: the user of this shell")
    change.add_argument("--dry-run", action="store_true", help="check everything and change nothing")
    verbs.add_parser("show", parents=[shared], help="what is held, and which scope is degraded")
    verbs.add_parser("hold", parents=[shared, change], help="refuse a scope's requests on every replica within 2 s")
    verbs.add_parser("release", parents=[shared, change], help="let a scope spend again")
    log = verbs.add_parser("log", parents=[shared], help="who changed what, and why; newest first")
    log.add_argument("--most", type=_most, default=20, help=f"changes to show, 1-{MOST_LOGGED}; default 20")
    return parser


def _most(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_LOGGED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_LOGGED}")
    return int(text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
