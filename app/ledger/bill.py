"""OpenAI's own bill of a day, over its Admin API."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from app.ledger.audit import Tokens
from app.ledger.entries import DAY_SECONDS, day_start
from app.ledger.evidence import Bill
from app.prices import PICO_PER_USD

CALL_SECONDS = 30.0


def read_bill(key: str, base_url: str, day: str) -> Bill:
    """Tokens and pico-dollars by model of a UTC day; blocks. Raises openai.OpenAIError."""
    import openai

    start = int(day_start(day))
    end = start + DAY_SECONDS
    tokens: defaultdict[str, Tokens] = defaultdict(Tokens)
    costs: defaultdict[str, int] = defaultdict(int)
    with openai.OpenAI(admin_api_key=key, base_url=base_url, timeout=CALL_SECONDS) as client:
        usage = client.admin.organization.usage
        for page in (
            usage.completions(start_time=start, end_time=end, group_by=["model"], limit=1),
            usage.embeddings(start_time=start, end_time=end, group_by=["model"], limit=1),
        ):
            for result in (result.to_dict() for bucket in page.data for result in bucket.results):
                found: dict[str, Any] = result
                more = Tokens(int(found.get("input_tokens") or 0), int(found.get("output_tokens") or 0))
                tokens[str(found["model"])] = tokens[str(found["model"])].plus(more)
        paid = usage.costs(start_time=start, end_time=end, group_by=["line_item"], limit=1)
        for cost in (result.to_dict() for bucket in paid.data for result in bucket.results):
            shown: dict[str, Any] = cost
            model = str(shown.get("line_item") or "").partition(",")[0]
            costs[model] += int(Decimal(repr(shown["amount"]["value"])) * PICO_PER_USD)
    return Bill(dict(tokens), dict(costs))
