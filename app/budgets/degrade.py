"""What a rung does to a request before it is planned: a shorter answer, then a cheaper model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.budgets.policy import Policy, Rung

if TYPE_CHECKING:
    from app.models import Models
    from app.pipeline.endpoints import Endpoint


def degraded(
    endpoint: Endpoint, document: Mapping[str, Any], models: Models, policy: Policy, rung: Rung
) -> Mapping[str, Any]:
    """The bounded body as it is planned on a rung; the same object when the rung changes nothing.

    Only endpoints whose output is capped are degraded: an embedding or a moderation has no shorter or cheaper form.
    A value that is wrong stays as it is, for the plan to refuse with its own words.

    Raises ApiError 404 `model_not_found`, as the plan would.
    """
    if rung < Rung.SHORTER or not endpoint.output_caps:
        return document
    asked = models.resolve(document.get("model") or models.default_model, endpoint.kind)
    serves = asked
    changed: dict[str, Any] = {}
    if rung >= Rung.CHEAPER and asked.name in policy.cheaper:
        serves = models.resolve(policy.cheaper[asked.name], endpoint.kind)
        changed["model"] = serves.name
    named = [name for name in endpoint.output_caps if document.get(name) is not None]
    caps = {name: document[name] for name in named} or {endpoint.output_caps[0]: asked.default_output_tokens}
    for name, cap in caps.items():
        if 1 <= cap <= asked.max_output_tokens:
            changed[name] = min(shorter(cap, policy), serves.max_output_tokens)
    return {**document, **changed}


def shorter(cap: int, policy: Policy) -> int:
    """A cap of output tokens made shorter; one that is short already stays."""
    return min(cap, max(policy.least_output_tokens, cap * policy.output_percent // 100))
