"""Step: which model answers, and how much it may say. The model document decides; the request asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from app.errors import ApiError
from app.pipeline.endpoints import CHAT, Endpoint
from app.pipeline.estimate import input_tokens

if TYPE_CHECKING:
    from app.models import Model, Models

MAX_STOP_SEQUENCES = 4  # Chat Completions' own bound


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent to OpenAI for one call, and what it may cost at most."""

    endpoint: Endpoint
    requested_model: str
    """As the caller named it, perhaps an alias."""
    model: Model
    document: Mapping[str, Any]
    """The body after policy: what was checked is what is sent, so doubled names cannot hide a field."""
    payload: bytes
    stream: bool
    hides_usage: bool
    """The usage chunk of a chat stream was asked for by us alone; the caller does not see it."""
    input_tokens: int
    """Estimated."""
    output_tokens: int
    """The most that may be produced, over all choices."""


def make_plan(endpoint: Endpoint, document: Mapping[str, Any], models: Models) -> Plan:
    """The plan for a bounded body; raises ApiError for an unknown model or a value beyond the model's caps."""
    requested = document.get("model") or _default_model(endpoint, models)
    model = models.resolve(requested, endpoint.kind)
    changed: dict[str, Any] = {**document, "model": model.name}
    stream = endpoint.streams and bool(document.get("stream"))
    output = 0
    hides_usage = False
    if endpoint.output_caps:
        output = _cap_output(endpoint, changed, model) * _choices(document, model)
        changed["service_tier"] = _service_tier(document.get("service_tier"), model)
    if endpoint is CHAT:
        _add_stop(changed, model)
        if stream:
            options = document.get("stream_options") or {}
            hides_usage = options.get("include_usage") is not True
            changed["stream_options"] = {**options, "include_usage": True}
    return Plan(
        endpoint=endpoint,
        requested_model=requested,
        model=model,
        document=changed,
        payload=orjson.dumps(changed),
        stream=stream,
        hides_usage=hides_usage,
        input_tokens=input_tokens(endpoint, changed),
        output_tokens=output,
    )


def _default_model(endpoint: Endpoint, models: Models) -> str:
    """The model of a request that names none."""
    if endpoint.kind == "text":
        return models.default_model
    names = models.names(endpoint.kind)
    # Vectors of different models cannot be compared, so this choice is the caller's; a moderation has one model.
    if endpoint.kind == "embedding" or not names:
        message = f"You must provide a model parameter; choose one of {', '.join(names)}."
        raise ApiError("missing_required_parameter", message, param="model")
    return names[0]


def _cap_output(endpoint: Endpoint, changed: dict[str, Any], model: Model) -> int:
    """Lower every output cap in `changed` to the model's maximum, or set the default; the tokens allowed."""
    asked = [name for name in endpoint.output_caps if changed.get(name) is not None]
    if not asked:
        changed[endpoint.output_caps[0]] = model.default_output_tokens
        return model.default_output_tokens
    for name in asked:
        if changed[name] < 1:
            raise ApiError("invalid_value", f"'{name}' must be at least 1.", param=name)
        changed[name] = min(changed[name], model.max_output_tokens)
    return max(int(changed[name]) for name in asked)


def _choices(document: Mapping[str, Any], model: Model) -> int:
    n = document.get("n") or 1
    if n > model.max_n:
        message = f"'n' is {n}; {model.name} gives at most {model.max_n} here, because every choice is paid for."
        raise ApiError("invalid_value", message, param="n")
    return max(1, n)


def _service_tier(asked: str | None, model: Model) -> str:
    """The tier asked for when the model document has it, else its first; never OpenAI's project default (`auto`)."""
    return asked if asked in model.service_tiers else model.service_tiers[0]


def _add_stop(changed: dict[str, Any], model: Model) -> None:
    if not model.stop:
        return
    asked = changed.get("stop")
    own = [asked] if isinstance(asked, str) else asked or []
    # dict keys: each once, the model document's first
    stop = list(dict.fromkeys([*model.stop, *own]))
    if len(stop) > MAX_STOP_SEQUENCES:
        left = MAX_STOP_SEQUENCES - len(model.stop)
        message = f"'stop' has too many sequences; {model.name} has {len(model.stop)} of its own and leaves {left}."
        raise ApiError("invalid_value", message, param="stop")
    changed["stop"] = stop
