"""Writes docs/reference.md from the modules that hold each fact (`make reference`); a test compares the two."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from app.budgets.policy import RUNG_HEADER
from app.cache.wishes import IDEMPOTENCY_HEADER, TAGS_HEADER
from app.deferred.deadline import HEADER as DEADLINE_HEADER
from app.errors import KINDS
from app.jobs.settings import RotationSettings, SettlingSettings
from app.limits import PRIORITY_HEADER
from app.observability.metrics import DIMENSIONS, NAMESPACE, UNITS
from app.observability.trace import HEADER as TRACE_HEADER
from app.observability.trace import STATE_HEADER
from app.pipeline.headers import QUEUE_HEADER
from app.pipeline.pay import FEATURE_HEADER
from app.pipeline.request_line import FIELDS
from app.pipeline.reserve import TIMEOUT_HEADER, WAIT_HEADER
from app.settings import ENVIRONMENT, PLATFORM_ENVIRONMENT
from components._timeouts import derive

HEADERS = (
    ("`authorization`", "request", "`Bearer` and a prodkit key"),
    ("`content-type`", "request", "`application/json` under `/v1`, when it is sent"),
    ("`cache-control`", "request", "`no-store`, `no-cache`, `max-age`, `max-stale`, `only-if-cached`: see cache.md"),
    (f"`{TAGS_HEADER}`", "request", "what the answer depends on: `DELETE /cache?tag=` makes it unreachable"),
    (f"`{PRIORITY_HEADER}`", "request", "`interactive` (the default) or `background`, which is shed first"),
    (
        f"`{WAIT_HEADER}`",
        "request",
        "`wait=SECONDS`: wait no longer for a turn at a rate limit",
    ),
    (f"`{TIMEOUT_HEADER}`", "request", "the time-out of OpenAI's own clients: a longer wait for a turn is refused"),
    (f"`{FEATURE_HEADER}`", "request", "what the caller's money is spent on, for the ledger's views"),
    (f"`{DEADLINE_HEADER}`", "request", "how long the answer may take: the request is deferred, at half the price"),
    (f"`{IDEMPOTENCY_HEADER}`", "request", "the same key and request again is the same call, deferred or not"),
    (f"`{TRACE_HEADER}`", "both", "W3C trace context: the caller's step, and ours in the answer"),
    (f"`{STATE_HEADER}`", "request", "goes with the spans to a collector"),
    ("`x-request-id`", "answer", "ours, as in the log line"),
    ("`x-upstream-request-id`", "answer", "OpenAI's, for its support"),
    ("`x-prodkit-model`", "answer", "the model that answered: behind an alias, or a fallback"),
    ("`x-prodkit-cache`", "answer", "`hit`, `stale`, `join`, `miss` or `bypass`"),
    (f"`{QUEUE_HEADER}`", "answer", "milliseconds of waiting for a turn at a rate limit, when there was a wait"),
    ("`age`", "answer", "seconds since a kept answer was made"),
    (f"`{RUNG_HEADER}`", "answer", "how far a budget lowers what is served"),
    ("`retry-after`", "answer", "seconds; OpenAI's own, or ours with 429 and 503"),
    ("`x-should-retry`", "answer", "`false`: clients of OpenAI do not try again by themselves"),
    ("`openai-processing-ms`, `openai-version`, `x-ratelimit-*`", "answer", "OpenAI's own, passed"),
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference.md"


def render() -> str:
    """The whole page."""
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    chain = derive(int(project["config"]["maxStreamSeconds"]["default"])).environment()
    return "\n".join(
        [
            "# Reference",
            "",
            "Made by `make reference` from the code; do not edit it by hand.",
            "",
            "## Settings of a stack",
            "",
            "In `stacks/Pulumi.<stack>.yaml` under `config:`, with `prodkit:` before the key. `aws:region` and",
            "`aws:allowedAccountIds` are required.",
            "",
            *_table(
                ("key", "type", "default", "meaning"),
                (
                    (f"`{key}`", known["type"], f"`{_shown(known['default'])}`", " ".join(known["description"].split()))
                    for key, known in project["config"].items()
                ),
            ),
            "## Environment of a task",
            "",
            "Set by the task definition and read by the app, which refuses to start when one is missing and names it.",
            "ECS itself sets " + ", ".join(f"`{name}`" for name in PLATFORM_ENVIRONMENT) + ".",
            "",
            *_table(("name", "for `maxStreamSeconds` 600"), ((f"`{n}`", chain.get(n, "")) for n in ENVIRONMENT)),
            "## Environment of the key rotation",
            "",
            "Read by `python -m app job rotate-key`, whose task definition sets them where `rotationDays` is not 0.",
            "",
            *_table(("name",), ((f"`{name}`",) for name in RotationSettings.environment())),
            "## Environment of settling what is in suspense",
            "",
            "Read by `python -m app job settle-suspense`. Without `PRODKIT_OPENAI_ADMIN_SECRET_ARN` there is no bill.",
            "",
            *_table(("name",), ((f"`{name}`",) for name in SettlingSettings.environment())),
            "## Headers",
            "",
            "Read of a request, or written into its answer. Others of a request are not looked at; none is passed on.",
            "",
            *_table(("header", "in", "meaning"), HEADERS),
            "## Metrics",
            "",
            f"Namespace `{NAMESPACE}`, dimensions {' and '.join(f'`{name}`' for name in DIMENSIONS)}, one",
            "document each 10 seconds. No tenant, key, request or model is ever a dimension: those are in the log.",
            "",
            *_table(("metric", "unit"), ((f"`{name}`", unit) for name, unit in UNITS.items())),
            "## The log line of a request",
            "",
            'One line of JSON with `event` "request" for each, beside `time` and `level`; a field without a value is',
            "left out. Never a prompt or an answer.",
            "",
            *_table(("field", "meaning"), ((f"`{name}`", meaning) for name, meaning in FIELDS.items())),
            "## Errors",
            "",
            'Always OpenAI\'s shape: `{"error": {"message", "type", "param", "code"}}`. An error of OpenAI itself',
            "keeps its status and code. The domain says who has to act; only `us` is this service's own failure.",
            "",
            *_table(
                ("code", "status", "type", "domain", "try again"),
                (
                    (f"`{code}`", str(kind.status), f"`{kind.type}`", kind.domain, "yes" if kind.retryable else "no")
                    for code, kind in KINDS.items()
                ),
            ),
        ]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [*("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines), ""]


def _shown(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else '""' if value == "" else str(value)


if __name__ == "__main__":
    PAGE.write_text(render())
