"""What may be spent, and stopping it: `python -m app.budgets show|set|hold|release|log`."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from app.aws import Aws, error_code
from app.budgets import holds, limits
from app.budgets.scope import described, scope_of
from app.ledger import Default, Ledger
from app.ledger.table import LedgerTable
from app.prices import usd

MOST_LOGGED = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 refused by AWS or nothing to release, 2 bad arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.table and options.verb != "set":
        parser.error("which table? set PRODKIT_STATE_TABLE or give --table (a stack exports its name as state_table)")
    if not options.ledger_table and options.verb == "set":
        parser.error("which ledger? set PRODKIT_LEDGER_TABLE or give --ledger-table (a stack exports ledger_table)")
    if not options.region:
        parser.error("which region? set AWS_REGION or give --region")
    aws = Aws(options.region, os.environ.get("AWS_ENDPOINT_URL") or None)
    try:
        print(_RUN[options.verb](aws, options))
        return 0
    except ValueError as error:
        parser.error(str(error))
    except LookupError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
    except Exception as error:
        tables = " and ".join(name for name in (options.table, options.ledger_table) if name)
        print(f"{parser.prog}: table {tables} in {options.region}: {error_code(error)}: {error}", file=sys.stderr)
    finally:
        aws.close()
    return 1


def _set(aws: Aws, options: argparse.Namespace) -> str:
    scope, span = scope_of(options.scope), limits.SPANS[options.span]
    if (options.usd is None) is not options.default:
        raise ValueError("say how many dollars, or none, or --default: one of them")
    holds.check_words(options.by, options.why)
    said = {"by": options.by, "why": options.why}
    if options.default:
        limit = f"{described(scope)} may spend what the stack's settings say each {options.span}"
        if not options.dry_run:
            # What that is they know who serve; each looks for changes of limits.
            asyncio.run(LedgerTable(aws, options.ledger_table).set_standing(scope, span, Default.LIMIT, **said))
    else:
        pico = None if options.usd == limits.NO_LIMIT else limits.pico_of(options.usd)
        limit = f"{described(scope)} may spend {'without a limit' if pico is None else usd(pico)} each {options.span}"
        if not options.dry_run:
            asyncio.run(Ledger(aws, options.ledger_table).set_limit(scope, span, pico, **said))
    if options.dry_run:
        return f"would set: {limit}"
    return f"{limit}, from this {options.span} on; what replicas have leased by now stays spendable"


def _hold(aws: Aws, options: argparse.Namespace) -> str:
    client: Any = aws.client("dynamodb")
    scope = scope_of(options.scope)
    undo = options.undo_by or f"python -m app.budgets release {scope}"
    if options.dry_run:
        holds.check_words(options.by, options.why)
        return f"would hold {scope}: new requests of {described(scope)} get 403 spending_held; undo: {undo}"
    made = holds.hold(client, options.table, scope, options.by, options.why, now=time.time())
    return (
        f"{scope} is held since {made.at} by {made.by}: {made.why}\n"
        f"Every replica refuses its new requests within two seconds; streams that run end by themselves. Undo: {undo}"
    )


def _release(aws: Aws, options: argparse.Namespace) -> str:
    client: Any = aws.client("dynamodb")
    scope = scope_of(options.scope)
    if options.dry_run:
        holds.check_words(options.by, options.why)
        held = holds.read(client, options.table).holds.get(scope)
        if held is None:
            raise LookupError(f"{scope} is not held")
        return f"would release {scope}, held since {held.at} by {held.by}: {held.why}"
    holds.release(client, options.table, scope, options.by, options.why, now=time.time())
    return f"{scope} is released; every replica serves it again within two seconds"


def _show(aws: Aws, options: argparse.Namespace) -> str:
    control = holds.read(aws.client("dynamodb"), options.table)
    lines = [f"{'HELD':<40} {'SINCE':<21} {'BY':<20} WHY"]
    lines += [f"{scope:<40} {held.at:<21} {held.by:<20} {held.why}" for scope, held in sorted(control.holds.items())]
    lines += ["", f"{'RUNG':<40} {'IS':<10} UNTIL"]
    for scope, standing in sorted(control.rungs.items()):
        lines.append(f"{scope:<40} {standing.rung.label:<10} {holds.moment(standing.until)}")
    if options.ledger_table:
        lines += ["", *asyncio.run(limits.shown(LedgerTable(aws, options.ledger_table), time.time()))]
    return "\n".join(lines)


def _log(aws: Aws, options: argparse.Namespace) -> str:
    made = holds.history(aws.client("dynamodb"), options.table, most=options.most)
    if options.ledger_table:
        made += asyncio.run(limits.changes(LedgerTable(aws, options.ledger_table)))
    lines = [f"{'AT':<21} {'ACTION':<9} {'SCOPE':<40} {'BY':<20} WHY"]
    for audit in sorted(made, key=lambda audit: audit.at, reverse=True)[: options.most]:
        detail = "".join(f" [{name} {value}]" for name, value in audit.detail.items())
        lines.append(f"{audit.at:<21} {audit.action:<9} {audit.scope:<40} {audit.by:<20} {audit.why}{detail}")
    return "\n".join(lines)


_RUN = {"set": _set, "hold": _hold, "release": _release, "show": _show, "log": _log}


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
    shared.add_argument(
        "--ledger-table",
        default=os.environ.get("PRODKIT_LEDGER_TABLE"),
        help="the ledger's table, for what is spent and who may spend it; default $PRODKIT_LEDGER_TABLE",
    )
    change = argparse.ArgumentParser(add_help=False)
    change.add_argument("scope", help="org (everything), tenant:NAME, key:KEY_ID or model:MODEL")
    change.add_argument("--why", required=True, help="for the record and for whoever releases it")
    change.add_argument("--by", default=_user(), help="for the record; default: the user of this shell")
    change.add_argument("--dry-run", action="store_true", help="check everything and change nothing")
    verbs.add_parser("show", parents=[shared], help="what is held, which scope is degraded, what each has spent")
    limit = verbs.add_parser("set", parents=[shared, change], help="set what a scope may spend, or take the limit away")
    limit.add_argument("span", choices=[*limits.SPANS], help="for each month or for each day")
    limit.add_argument("usd", nargs="?", help=f"dollars such as 50 or 0.25, or `{limits.NO_LIMIT}`")
    limit.add_argument("--default", action="store_true", help="instead: go back to what the stack's settings say")
    hold = verbs.add_parser("hold", parents=[shared, change], help="refuse a scope's requests on every replica in 2 s")
    hold.add_argument("--undo-by", metavar="COMMAND", help="to name as the way back; default: this command's release")
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
