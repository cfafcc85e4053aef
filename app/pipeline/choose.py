"""Step: which model answers, and how much it may say. The model document decides; the request asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from app.errors import ApiError
from app.model_document import MAX_STOP_CHARACTERS
from app.pipeline.endpoints import CHAT, RESPONSES, Endpoint
from app.pipeline.estimate import input_tokens

if TYPE_CHECKING:
    from app.models import Model, Models

MAX_STOP_SEQUENCES = 4  # Chat Completions' own bound


@dataclass(slots=True)
class Plan:
    """What is sent to OpenAI for one call, and what it may cost at most."""

    endpoint: Endpoint
    requested_model: str
    """As the caller named it, perhaps an alias."""
    model: Model
    document: Mapping[str, Any]
    """The body after policy: what was checked is what is sent, so doubled names cannot hide a field."""
    stream: bool
    """The caller reads a stream."""
    streams_upstream: bool
    """OpenAI writes a stream: for the caller, or to be cut at a stop sequence on its way."""
    stop: tuple[str, ...]
    """Sequences at which the answer is cut here; empty when OpenAI does that itself or none were given."""
    hides_usage: bool
    """The usage chunk of a chat stream was asked for by us alone; the caller does not see it."""
    output_tokens: int
    """The most that may be produced, over all choices."""
    asked: Mapping[str, Any]
    """The body before policy, for a plan on another model."""
    models: Models
    """The document in force when the call began."""
    undegraded: Plan | None = None
    """What it would be were no budget near its end; set from the rung on that looks for kept answers to it."""
    written: bytes | None = None
    """`payload`, once it was needed: most often while it is found out whether the answer is kept."""
    counted: int | None = None
    """`input_tokens`, likewise."""

    @property
    def payload(self) -> bytes:
        """`document` as it is sent: without the stop sequences that are cut here."""
        return self.write() if self.written is None else self.written

    def write(self) -> bytes:
        """Make the payload, for who has the time now."""
        self.written = orjson.dumps(_to_be_cut(self.document) if self.stop else self.document)
        return self.written

    @property
    def input_tokens(self) -> int:
        """Estimated."""
        if self.counted is None:
            self.counted = input_tokens(self.endpoint, self.document)
        return self.counted


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
        if "tools" in document or "functions" in document:
            _check_tools(document, model)
        if model.stop or "stop" in document:
            _add_stop(changed, model)
    if endpoint is CHAT and stream:
        options = document.get("stream_options") or {}
        hides_usage = options.get("include_usage") is not True
        changed["stream_options"] = {**options, "include_usage": True}
    # Chat Completions have the parameter; Responses do not, so the stream is cut here.
    stop = tuple(changed.get("stop") or ()) if endpoint is RESPONSES else ()
    return Plan(
        endpoint=endpoint,
        requested_model=requested,
        model=model,
        document=changed,
        stream=stream,
        streams_upstream=stream or bool(stop),
        stop=stop,
        hides_usage=hides_usage,
        output_tokens=output,
        asked=document,
        models=models,
    )


def fallback_plans(plan: Plan) -> Iterator[Plan]:
    """The same call on the models that answer for the planned one, in order; one that cannot take it is left out."""
    for name in plan.model.fallback:
        # A model with less room than was asked for gives what it has: better than no answer.
        most = plan.models.resolve(name, plan.endpoint.kind).max_output_tokens
        caps = {cap: plan.document[cap] for cap in plan.endpoint.output_caps if plan.document.get(cap) is not None}
        lowered = {cap: min(value, most) for cap, value in caps.items()}
        try:
            other = make_plan(plan.endpoint, {**plan.asked, **lowered, "model": name}, plan.models)
        except ApiError:
            continue
        yield replace(other, requested_model=plan.requested_model)


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
    """Check every output cap in `changed` against the model's maximum, or set the default; the tokens allowed."""
    most = 0
    for name in endpoint.output_caps:
        asked: int | None = changed.get(name)
        if asked is None:
            continue
        if asked < 1:
            raise ApiError("invalid_value", f"'{name}' must be at least 1.", param=name)
        if asked > model.max_output_tokens:
            message = f"'{name}' is {asked}; {model.name} gives at most {model.max_output_tokens} here."
            raise ApiError("invalid_value", message, param=name)
        if asked > most:
            most = asked
    if not most:
        most = changed[endpoint.output_caps[0]] = model.default_output_tokens
    return most


def _choices(document: Mapping[str, Any], model: Model) -> int:
    n: int | None = document.get("n")
    if not n:
        return 1
    if n > model.max_n:
        message = f"'n' is {n}; {model.name} gives at most {model.max_n} here, because every choice is paid for."
        raise ApiError("invalid_value", message, param="n")
    return max(1, n)


def _service_tier(asked: str | None, model: Model) -> str:
    """The tier asked for, or the model document's first; never OpenAI's project default (`auto`), whatever it is."""
    if asked is None or asked == "auto":
        return model.service_tiers[0]
    if asked not in model.service_tiers:
        allowed = ", ".join(model.service_tiers)
        message = f"'service_tier' is '{asked[:40]}'; {model.name} is priced here for {allowed} alone."
        raise ApiError("invalid_value", message, param="service_tier")
    return asked


def _check_tools(document: Mapping[str, Any], model: Model) -> None:
    for name in ("tools", "functions"):
        tools = document.get(name)
        if tools and len(tools) > model.max_tools:
            message = f"'{name}' has {len(tools)} entries; {model.name} takes at most {model.max_tools} here."
            raise ApiError("invalid_value", message, param=name)


def _to_be_cut(changed: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenAI gets of a call that is cut here: a stream, unpadded when nobody but us reads it."""
    sent = {name: value for name, value in changed.items() if name != "stop"}
    if not sent.get("stream"):
        sent["stream_options"] = {"include_obfuscation": False}
    sent["stream"] = True
    return sent


def _add_stop(changed: dict[str, Any], model: Model) -> None:
    asked = changed.pop("stop", None)
    if not asked and not model.stop:
        return
    own = [asked] if isinstance(asked, str) else asked or []
    for sequence in own:
        if not isinstance(sequence, str):
            raise ApiError("invalid_type", "Invalid type for 'stop': expected a string or strings.", param="stop")
        if not 1 <= len(sequence) <= MAX_STOP_CHARACTERS:
            message = f"A sequence of 'stop' has {len(sequence)} characters; 1 to {MAX_STOP_CHARACTERS} are allowed."
            raise ApiError("invalid_value", message, param="stop")
    # dict keys: each once, the model document's first
    stop = list(dict.fromkeys([*model.stop, *own]))
    if len(stop) > MAX_STOP_SEQUENCES:
        left = MAX_STOP_SEQUENCES - len(model.stop)
        message = f"'stop' has {len(own)} sequences; {model.name} has {len(model.stop)} of its own and leaves {left}."
        raise ApiError("invalid_value", message, param="stop")
    changed["stop"] = stop
