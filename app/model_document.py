"""Checks of the models document: everything its JSON Schema asks, and what a schema cannot say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from app.budgets.policy import STEPS, descending

KINDS = ("text", "embedding", "moderation")
SERVICE_TIERS = ("default",)  # others are priced differently, and these prices are the standard ones
MAX_MODELS = 200
MAX_RATE = 1_000_000_000
MAX_STREAMS = 1_000_000  # at one time
MAX_TENANTS = 1_000  # with limits of their own
MAX_WEIGHT = 1_000
MAX_STOP = 4
MAX_STOP_CHARACTERS = 200
MAX_TOOLS = 128  # OpenAI's own bound of one request
MAX_FALLBACKS = 3  # each is one more call while a caller waits
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_USD = re.compile(r"[0-9]{1,6}([.][0-9]{1,6})?")
_TIMES = re.compile(r"[0-9]{1,2}([.][0-9]{1,2})?")

Check = Callable[["_Problems", str, Any], None]


class DocumentError(ValueError):
    """A models document cannot be used; the message has one line for each fault, with its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The models document cannot be used:\n" + "\n".join(f"  {line}" for line in problems))
        self.problems = tuple(problems)


def check(document: object) -> dict[str, Any]:
    """The document as it is when it can be used; raises DocumentError that names every fault by its path."""
    problems = _Problems()
    _document(problems, "", document)
    if not problems.lines:
        assert isinstance(document, dict)
        _references(problems, document)
        if not problems.lines:
            return document
    raise DocumentError(problems.lines)


class _Problems:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, path: str, value: object, text: str) -> None:
        shown = repr(value)
        self.lines.append(f"{path or 'the document'}: {shown if len(shown) <= 60 else shown[:57] + '...'} {text}")


def _fields(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    known = required | (optional or {})

    def run(problems: _Problems, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            problems.add(path, value, "is not an object")
            return
        prefix = f"{path}." if path else ""
        problems.lines += [f"{prefix}{name}: is missing" for name in required if name not in value]
        for name, item in value.items():
            if name in known:
                known[name](problems, f"{prefix}{name}", item)
            else:
                problems.lines.append(f"{prefix}{name}: is unknown; known are {', '.join(known)}")

    return run


def _entries(each: Check, least: int, most: int) -> Check:
    def run(problems: _Problems, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            problems.add(path, value, "is not an object")
            return
        if not least <= len(value) <= most:
            problems.lines.append(f"{path}: has {len(value)} entries, not {least} to {most}")
        for name, item in value.items():
            _name(problems, f"{path} (a name)", name)
            each(problems, f"{path}.{name}", item)

    return run


def _integer(least: int, most: int) -> Check:
    def run(problems: _Problems, path: str, value: Any) -> None:
        # type() and not isinstance: True is an int in Python and not a number in JSON.
        if type(value) is not int or not least <= value <= most:
            problems.add(path, value, f"is not a whole number from {least} to {most}")

    return run


def _boolean(problems: _Problems, path: str, value: Any) -> None:
    if not isinstance(value, bool):
        problems.add(path, value, "is neither true nor false")


def _text(least: int, most: int) -> Check:
    def run(problems: _Problems, path: str, value: Any) -> None:
        if not isinstance(value, str) or not least <= len(value) <= most:
            problems.add(path, value, f"is not a text of {least} to {most} characters")

    return run


def _matching(pattern: re.Pattern[str], text: str) -> Check:
    def run(problems: _Problems, path: str, value: Any) -> None:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            problems.add(path, value, text)

    return run


def _choice(*choices: str) -> Check:
    def run(problems: _Problems, path: str, value: Any) -> None:
        if value not in choices:
            problems.add(path, value, f"is not one of {', '.join(choices)}")

    return run


def _list(each: Check, least: int, most: int) -> Check:
    def run(problems: _Problems, path: str, value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            problems.add(path, value, f"is not a list of {least} to {most}")
            return
        for index, item in enumerate(value):
            each(problems, f"{path}[{index}]", item)
            if item in value[:index]:
                problems.add(f"{path}[{index}]", item, "stands there twice")

    return run


_name = _matching(_NAME, "is not a name of 1 to 100 letters, digits, dots, colons, _ and -")
_usd = _matching(_USD, 'is not USD per million tokens as a text with at most six decimals, like "0.125"')
_times = _matching(_TIMES, 'is not a factor as a text with at most two decimals, like "1.5"')
_stop = _list(_text(1, MAX_STOP_CHARACTERS), 0, MAX_STOP)
_rate = _integer(1, MAX_RATE)
_timeout = _integer(1, 3_600)
_output_tokens = _fields({"default": _integer(1, 1_000_000), "maximum": _integer(1, 1_000_000)})
_price = _fields({"input": _usd}, {"cached_input": _usd, "cache_write": _usd, "output": _usd})
_long_context = _fields({"above_input_tokens": _integer(1, 100_000_000), "input_times": _times, "output_times": _times})
_rates = {"requests_per_minute": _rate, "tokens_per_minute": _rate, "streams": _integer(1, MAX_STREAMS)}
_rate_limits = _fields({}, _rates)
_tenant = _fields({}, {**_rates, "weight": _integer(1, MAX_WEIGHT)})
_model = _fields(
    {"kind": _choice(*KINDS)},
    {
        # Of documents from before prices.yaml, which decides alone: taken so that those still load, and not read.
        "price": _price,
        "source": _text(1, 300),
        "long_context": _long_context,
        "stop": _stop,
        "output_tokens": _output_tokens,
        "first_token_timeout_seconds": _timeout,
        "fallback": _list(_name, 0, MAX_FALLBACKS),
        "rate_limits": _rate_limits,
    },
)
_share = _integer(1, 100)
_budget = _fields(
    {},
    {
        "aim_percent": _integer(50, 100),
        "notify_percent": _integer(10, 100),
        "spent_percents": _list(_share, 0, 10),
        "hysteresis_percent": _integer(0, 50),
        "dwell_minutes": _integer(0, 1_440),
        "output_percent": _integer(10, 100),
        "least_output_tokens": _integer(16, 100_000),
        "cheaper": _entries(_name, 0, MAX_MODELS),
        "stale_seconds": _integer(0, 30 * 86_400),
        "cost_percent": _fields({}, {rung.label: _share for rung in STEPS}),
        "hold_runaways": _boolean,
    },
)
_seconds = _integer(0, 86_400)
_cache_route = _fields({}, {"ttl_seconds": _seconds, "stale_seconds": _seconds})
_cache_routes = _fields({}, {"responses": _cache_route, "chat": _cache_route, "embeddings": _cache_route})
_document = _fields(
    {
        "version": _integer(1, 1_000_000_000),
        "updated": _matching(_DATE, "is not a date like 2026-11-22, as a text"),
        "default_model": _name,
        "aliases": _entries(_name, 0, MAX_MODELS),
        "limits": _fields(
            {
                "n": _integer(1, 128),
                "output_tokens": _output_tokens,
                "stop": _stop,
                "request_timeout_seconds": _timeout,
                "service_tiers": _list(_choice(*SERVICE_TIERS), 1, 5),
            },
            {"first_token_timeout_seconds": _timeout, "tools": _integer(0, MAX_TOOLS)},
        ),
        "keys": _fields(
            {"requests_per_minute": _rate, "tokens_per_minute": _rate}, {"streams": _integer(1, MAX_STREAMS)}
        ),
        "cache": _fields({"ttl_seconds": _seconds}, {"stale_seconds": _seconds, "routes": _cache_routes}),
        "models": _entries(_model, 1, MAX_MODELS),
        "product": _fields(
            {
                "answer_model": _name,
                "embedding_model": _name,
                "top_k": _integer(1, 50),
                "chunk_tokens": _integer(50, 2_000),
            }
        ),
    },
    {
        "budget": _budget,
        "fleet": _rate_limits,
        "tenants": _fields({}, {"default": _tenant, "named": _entries(_tenant, 0, MAX_TENANTS)}),
    },
)


def _references(problems: _Problems, document: dict[str, Any]) -> None:
    """What a schema cannot say: names lead to the right kind of model, caps are in order, output has a price."""
    models, aliases = document["models"], document["aliases"]
    for alias, target in aliases.items():
        if target not in models:
            problems.add(f"aliases.{alias}", target, "is not in models")
        if alias in models:
            problems.lines.append(f"aliases.{alias}: is the name of a model as well")
    wanted = {
        "default_model": (document["default_model"], "text"),
        "product.answer_model": (document["product"]["answer_model"], "text"),
        "product.embedding_model": (document["product"]["embedding_model"], "embedding"),
    }
    for path, (name, kind) in wanted.items():
        if models.get(aliases.get(name, name), {}).get("kind") != kind:
            problems.add(path, name, f"does not lead to a model of kind {kind}")
    _caps(problems, "limits.output_tokens", document["limits"]["output_tokens"])
    for name, model in models.items():
        if "output_tokens" in model:
            _caps(problems, f"models.{name}.output_tokens", model["output_tokens"])
    _fallbacks(problems, models)
    _ladder(problems, document.get("budget", {}), models)


def _ladder(problems: _Problems, budget: dict[str, Any], models: dict[str, Any]) -> None:
    for name, other in budget.get("cheaper", {}).items():
        path = f"budget.cheaper.{name}"
        # Text alone: vectors of two embedding models cannot be compared.
        if models.get(name, {}).get("kind") != "text":
            problems.lines.append(f"{path}: {name!r} is no model of kind text")
        elif other == name or models.get(other, {}).get("kind") != "text":
            problems.add(path, other, "is not another model of kind text")
    if not descending(budget.get("cost_percent", {})):
        problems.lines.append(
            f"budget.cost_percent: no rung may cost more than the one before it ({', '.join(r.label for r in STEPS)})"
        )


def _fallbacks(problems: _Problems, models: dict[str, Any]) -> None:
    for name, model in models.items():
        for index, other in enumerate(model.get("fallback", ())):
            if other == name or models.get(other, {}).get("kind") != model["kind"]:
                problems.add(f"models.{name}.fallback[{index}]", other, f"is not another model of kind {model['kind']}")


def _caps(problems: _Problems, path: str, caps: dict[str, int]) -> None:
    if caps["default"] > caps["maximum"]:
        problems.lines.append(f"{path}: default {caps['default']} is above maximum {caps['maximum']}")
