"""Step: what the budgets leave of a request: nothing when it is held, a cheaper plan on a rung of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.budgets.policy import Rung
from app.deferred.deadline import HEADER as DEADLINE_HEADER
from app.limits.queue import BACKGROUND, PRIORITY_HEADER
from app.observability.metrics import DEGRADED_REQUESTS
from app.pipeline.choose import Plan, make_plan

if TYPE_CHECKING:
    from app.pipeline.endpoints import Endpoint
    from app.pipeline.messages import Call
    from app.pipeline.record import Record
    from app.services import Services


def affordable_plan(
    services: Services, call: Call, endpoint: Endpoint, document: Mapping[str, Any], record: Record
) -> Plan:
    """The plan for a bounded body.

    Raises ApiError: 403 `spending_held`, 429 `insufficient_quota` for a background request that has to wait for money,
    and what `make_plan` raises.
    """
    identity = call.identity
    # What goes into a batch costs half: it is what the ladder wants background requests to do.
    batched = DEADLINE_HEADER in call.headers
    priority = call.headers.get(PRIORITY_HEADER)
    background = priority is not None and not batched and priority.strip().lower() == BACKGROUND
    models = services.models.current
    record.rung, changed = services.budgets.degrade(endpoint, document, models, identity, background=background)
    plan = make_plan(endpoint, changed, models)
    if changed is not document:
        services.metrics.count(DEGRADED_REQUESTS)
        before = make_plan(endpoint, document, models) if record.rung >= Rung.CACHED else None
        plan = replace(plan, requested_model=document.get("model") or models.default_model, undegraded=before)
    services.budgets.admit(identity, plan.model.name)
    return plan
