"""What may be merged, the call that is made of it, and each request's own part of the answer. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from app.errors import ApiError
from app.pipeline.answer import Answer
from app.pipeline.endpoints import EMBEDDINGS, MODERATIONS
from app.pipeline.meter import read_usage

if TYPE_CHECKING:
    from app.pipeline.choose import Plan

MOST_TEXT_BYTES = 8_192
"""A token is at least a byte, so no text of this size is beyond the 8,192 tokens that an embedding model reads: one
request cannot spoil the call of others by being too long. A longer text gains little by sharing a request."""
END_USER = "user"
"""OpenAI watches abuse by this field: a call that has it is merged with its tenant's calls for the same user alone."""


def text_count(plan: Plan, most: int) -> int | None:
    """How many texts a plan brings into a merged call; None for one that goes alone: other endpoints, token lists,
    images, long or many texts, and models with a fallback, which is chosen for each request."""
    if plan.endpoint is not EMBEDDINGS and plan.endpoint is not MODERATIONS:
        return None
    if plan.model.fallback:
        return None
    texts = _texts(plan)
    if not 1 <= len(texts) <= most or not all(map(_is_short, texts)):
        return None
    return len(texts)


def kind_of(plan: Plan, tenant: str) -> Hashable:
    """Equal for plans that one call can answer: same endpoint, and every field but the input the same."""
    rest = frozenset((name, value) for name, value in plan.document.items() if name != plan.endpoint.content)
    return plan.endpoint.path, tenant if plan.document.get(END_USER) is not None else None, rest


def joined(plans: Sequence[Plan]) -> Plan:
    """One plan for the texts of several of a kind, in their order."""
    first = plans[0]
    document = {**first.document, first.endpoint.content: [text for plan in plans for text in _texts(plan)]}
    return replace(
        first,
        document=document,
        asked=document,
        written=None,
        counted=sum(plan.input_tokens for plan in plans),
    )


def split_answer(answer: Answer, plans: Sequence[Plan]) -> list[Answer]:
    """Each plan's part of the answer to their joined plan, in the shape of an answer to it alone.

    An error is everybody's. Raises ApiError 502 for a success that does not have one result for each text.
    """
    if answer.status != 200:
        return [answer] * len(plans)
    endpoint = plans[0].endpoint
    counts = [len(_texts(plan)) for plan in plans]
    results = _results(answer.document.get(endpoint.answer), sum(counts), numbered=endpoint is EMBEDDINGS)
    usage = read_usage(answer.document.get("usage"))
    tokens: Sequence[int | None] = [None] * len(plans)
    if usage is not None:
        tokens = shares(usage.input_tokens, [plan.input_tokens for plan in plans], counts)
    parts, start = [], 0
    for count, own in zip(counts, tokens, strict=True):
        mine = results[start : start + count]
        if endpoint is EMBEDDINGS:
            mine = [{**result, "index": index} for index, result in enumerate(mine)]
        document = {**answer.document, endpoint.answer: mine}
        if own is not None:
            document["usage"] = {"prompt_tokens": own, "total_tokens": own}
        parts.append(replace(answer, document=document, body=orjson.dumps(document)))
        start += count
    return parts


def shares(total: int, weights: Sequence[int], least: Sequence[int]) -> list[int]:
    """`total` in whole shares that add up to it: first `least` each, if there is enough, the rest by weight.

    What rounding down leaves over goes, one each, to the largest remainders, the earlier first.
    """
    given = list(least) if sum(least) <= total else [0] * len(weights)
    rest, sum_weights = total - sum(given), sum(weights)
    exact = [divmod(rest * weight, sum_weights) for weight in weights]
    left = rest - sum(whole for whole, _ in exact)
    order = sorted(range(len(weights)), key=lambda at: -exact[at][1])
    extra = set(order[:left])
    return [given[at] + whole + (at in extra) for at, (whole, _) in enumerate(exact)]


def _texts(plan: Plan) -> list[Any]:
    content = plan.document[plan.endpoint.content]
    return content if isinstance(content, list) else [content]


def _is_short(text: object) -> bool:
    if not isinstance(text, str):
        return False
    # The longest character has four bytes.
    return len(text) <= MOST_TEXT_BYTES // 4 or len(text.encode()) <= MOST_TEXT_BYTES


def _results(found: object, count: int, *, numbered: bool) -> list[dict[str, Any]]:
    """The results in the order of the texts."""
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, dict) for one in found):
        raise _broken()
    if not numbered:
        return found
    ordered: dict[Any, dict[str, Any]] = {one.get("index"): one for one in found}
    if ordered.keys() != set(range(count)):
        raise _broken()
    return [ordered[index] for index in range(count)]


def _broken() -> ApiError:
    return ApiError("upstream_invalid_response", "OpenAI's answer does not have one result for each text; try again.")
