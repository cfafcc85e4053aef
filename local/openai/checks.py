"""The parameters that each endpoint has, with their types and ranges, refused the way OpenAI refuses them."""

from collections.abc import Callable, Mapping
from typing import Any

from local.openai.errors import (
    ApiError,
    bad,
    not_simulated,
    unknown_parameter,
    unsupported_parameter,
    unsupported_value,
)
from local.openai.models import EFFORTS, Model

Check = Callable[[str, Any], None]

_TYPES = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
MIN_OUTPUT_TOKENS = 16


def wrong_type(name: str, expected: str, value: Any) -> ApiError:
    """The 400 for a value of the wrong JSON type."""
    got = _TYPES.get(type(value), "an object")
    return bad(f"Invalid type for '{name}': expected {expected}, but got {got} instead.", name, "invalid_type")


def missing(name: str) -> ApiError:
    """The 400 for a required parameter that is not there."""
    return bad(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def an_object(name: str, value: Any) -> dict[str, Any]:
    """`value` when it is an object, an empty one for null, else a 400."""
    if value is None:
        return {}
    _object(name, value)
    fields: dict[str, Any] = value
    return fields


def a_list(name: str, value: Any) -> list[Any]:
    """`value` when it is an array, an empty one for null, else a 400."""
    if value is None:
        return []
    _array(name, value)
    items: list[Any] = value
    return items


def named(name: str, value: Any) -> str:
    """`value` when it is a non-empty string, else a 400."""
    if value is None or value == "":
        raise missing(name)
    _text()(name, value)
    return str(value)


def _anything(_name: str, _value: Any) -> None:
    """Checked elsewhere, or only echoed."""


def _unplayed(name: str, value: Any) -> None:
    if value:
        raise not_simulated(name)


def _boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)


def _object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)


def _array(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise wrong_type(name, "an array", value)


def _text(most: int | None = None) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if most is not None and len(value) > most:
            text = f"Expected a string with maximum length {most}, but got a string with length {len(value)} instead."
            raise bad(f"Invalid '{name}': string too long. {text}", name, "string_above_max_length")

    return check


def one_of(*values: str) -> Check:
    """A check that the value is one of `values`."""

    def check(name: str, value: Any) -> None:
        if value not in values:
            listed = ", ".join(f"'{item}'" for item in values)
            raise bad(f"Invalid value: '{value}'. Supported values are: {listed}.", name, "invalid_value")

    return check


def _range(what: str, low: float, high: float | None) -> Check:
    kinds = (int,) if what == "integer" else (int, float)

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise wrong_type(name, "an integer" if what == "integer" else "a decimal", value)
        if value < low:
            text = f"{what} below minimum value. Expected a value >= {low:g}, but got {value} instead."
            raise bad(f"Invalid '{name}': {text}", name, f"{what}_below_min_value")
        if high is not None and value > high:
            text = f"{what} above maximum value. Expected a value <= {high:g}, but got {value} instead."
            raise bad(f"Invalid '{name}': {text}", name, f"{what}_above_max_value")

    return check


def _integer(low: int, high: int | None = None) -> Check:
    return _range("integer", low, high)


def _number(low: float, high: float) -> Check:
    return _range("decimal", low, high)


def _metadata(name: str, value: Any) -> None:
    _object(name, value)
    if len(value) > 16:
        text = f"Expected an object with at most 16 properties, but got {len(value)} properties instead."
        raise bad(f"Invalid '{name}': too many properties. {text}", name, "object_above_max_properties")
    for key, item in value.items():
        _text(64)(f"{name}.{key}", key)
        _text(512)(f"{name}.{key}", item)


_SHARED: dict[str, Check] = {
    "metadata": _metadata,
    "model": _text(),
    "moderation": _unplayed,
    "parallel_tool_calls": _boolean,
    "prompt_cache_key": _text(),
    "prompt_cache_options": _object,
    "prompt_cache_retention": one_of("in_memory", "24h"),
    "safety_identifier": _text(128),
    "store": _boolean,
    "stream": _boolean,
    "stream_options": _object,
    "temperature": _number(0, 2),
    "tool_choice": _anything,
    "tools": _array,
    "top_logprobs": _integer(0, 20),
    "top_p": _number(0, 1),
    "user": _text(),
}
RESPONSES: dict[str, Check] = _SHARED | {
    "access_programs": _unplayed,
    "background": _unplayed,
    "background_options": _unplayed,
    "context_management": _unplayed,
    "conversation": _unplayed,
    "image": _unplayed,
    "include": _array,
    "input": _anything,
    "instructions": _text(),
    "max_output_tokens": _integer(MIN_OUTPUT_TOKENS),
    "max_tool_calls": _integer(1),
    "previous_response_id": _text(),
    "prompt": _unplayed,
    "reasoning": _object,
    "service_tier": one_of(*_TIERS, "ultrafast"),
    "text": _object,
    "truncation": one_of("auto", "disabled"),
}
CHAT: dict[str, Check] = _SHARED | {
    "audio": _unplayed,
    "frequency_penalty": _number(-2, 2),
    "function_call": _unplayed,
    "functions": _unplayed,
    "logit_bias": _object,
    "logprobs": _unplayed,
    "max_completion_tokens": _integer(1),
    "max_tokens": _integer(1),
    "messages": _array,
    "modalities": _array,
    "n": _integer(1, 128),
    "prediction": _unplayed,
    "presence_penalty": _number(-2, 2),
    "reasoning_effort": one_of(*EFFORTS),
    "response_format": _object,
    "seed": _integer(-(2**63), 2**63 - 1),
    "service_tier": one_of(*_TIERS),
    "stop": _anything,
    "verbosity": one_of("low", "medium", "high"),
    "web_search_options": _unplayed,
}
EMBEDDINGS: dict[str, Check] = {
    "dimensions": _integer(1),
    "encoding_format": one_of("float", "base64"),
    "input": _anything,
    "model": _text(),
    "user": _text(),
}
MODERATIONS: dict[str, Check] = {"input": _anything, "model": _text()}


def check(body: Mapping[str, Any], parameters: Mapping[str, Check], *required: str) -> None:
    """Refuse (400 with `param`) what the endpoint does not have, what is missing, and values out of type or range."""
    for name, value in body.items():
        rule = parameters.get(name)
        if rule is None:
            raise unknown_parameter(name)
        if value is not None:
            rule(name, value)
    for name in required:
        if body.get(name) is None:
            raise missing(name)


def check_model(body: Mapping[str, Any], model: Model, effort_name: str, effort: Any) -> str:
    """Refuse what this model does not take; return the reasoning effort in force."""
    if effort is not None and not model.efforts:
        raise unsupported_parameter(effort_name)
    if effort is not None and effort not in model.efforts:
        one_of(*EFFORTS)(effort_name, effort)
        raise unsupported_value(effort_name, effort, model.efforts)
    for name in ("temperature", "top_p", "top_logprobs"):
        if not model.sampling and body.get(name) not in (None, 0 if name == "top_logprobs" else 1):
            raise unsupported_parameter(name)
    if body.get("top_logprobs"):
        raise not_simulated("top_logprobs")
    return effort or model.default_effort


def check_output_cap(name: str, cap: int | None, model: Model) -> None:
    """Refuse an output cap above what the model can write."""
    if cap is not None:
        _integer(1, model.max_output_tokens)(name, cap)


def check_context(tokens: int, model: Model, param: str) -> None:
    """Refuse a prompt longer than the model's context."""
    if tokens > model.context_tokens:
        text = (
            f"Your input exceeds the context window of this model. Its maximum is {model.context_tokens} tokens, "
            f"but the input has {tokens} tokens. Please shorten it and try again."
        )
        raise bad(text, param, "context_length_exceeded")


def effective_tier(requested: str | None, model: Model) -> str:
    """The tier that serves the request (`fast` reports `priority`); 400 with `param=service_tier` where not offered."""
    if requested in (None, "auto"):
        return "default"
    if requested not in model.service_tiers:
        text = f"Invalid service_tier argument: '{requested}' is not available for model '{model.name}'."
        raise bad(text, "service_tier", "invalid_service_tier")
    return "priority" if requested == "fast" else str(requested)
