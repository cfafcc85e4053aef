"""`python -m app job settle-suspense`: settles what silent replicas left, by OpenAI's bill or the end of the window."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from app.aws import Aws
from app.jobs.key_secret import read_secret
from app.jobs.settings import SettlingSettings
from app.ledger.auditor import Auditor, ReadBill, Report
from app.ledger.bill import read_bill
from app.ledger.table import LedgerTable
from app.observability import metrics
from app.observability.log import write_line
from app.secret import parse_key

log = logging.getLogger(__name__)


def run(
    settings: SettlingSettings,
    *,
    clock: Callable[[], float] = time.time,
    write: Callable[[str], object] = write_line,
) -> int:
    """Run once, write the metrics that the alarms read, and return the exit status: 0, or 1 after a failure."""
    aws = Aws(settings.aws_region, settings.aws_endpoint_url)
    failures = 1
    try:
        table = LedgerTable(aws, settings.ledger_table, wall_clock=clock)
        auditor = Auditor(table, settings.budget_zone, _bill_reader(aws, settings), wall_clock=clock)
        report = asyncio.run(auditor.run())
        _say(report)
        failures = 1 if report.problems else 0
    except Exception:  # whatever it was, the alarms must hear of it
        log.exception("suspense is not settled")
    finally:
        values = {metrics.JOB_RUNS: 1.0, metrics.JOB_FAILURES: float(failures)}
        metrics.write_once(settings.stack, settings.service, values, write=write, wall_clock=clock)
        aws.close()
    return failures


def _bill_reader(aws: Aws, settings: SettlingSettings) -> ReadBill | None:
    """What reads OpenAI's bill; None without an admin key, which is no failure: windows end without one too."""
    arn = settings.openai_admin_secret_arn
    answer = read_secret(aws.client("secretsmanager"), arn) if arn else None
    key = parse_key(answer.get("SecretString")) if answer else None
    if key is None:
        log.info("no admin key is set: what is in suspense counts as spent a week after its window has ended")
        return None
    return partial(read_bill, key, settings.openai_base_url)


def _say(report: Report) -> None:
    for problem in report.problems:
        log.error("suspense is not settled: %s", problem)
    fields: dict[str, int | str] = {"settled": report.settled, "assumed": report.assumed, "waiting": report.waiting}
    if report.unresolved:
        fields["unresolved_pico"] = str(report.unresolved)
    log.info("suspense is looked at", extra={"fields": fields})
