"""What the organization is billed for: tokens by the minute, key, model and tier, as usage and costs endpoints show it.

A request that was answered is billed in full, and so is a whole answer that nobody waited for. A stream that was left
or cut is billed for its input, for what had been written by then, and for all the reasoning that came before. A request
that was refused, or that failed before it was worked on, costs nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qs

from app.prices import BATCH, DEFAULT, PICO_PER_USD, default_prices
from local.openai.errors import bad
from local.openai.journal import Entry
from local.openai.models import MODELS

WIDTHS = {"1m": (60, 60, 1_440), "1h": (3_600, 24, 168), "1d": (86_400, 7, 31)}
"""Seconds of a bucket, buckets when nothing is said, most buckets."""
_COSTS = (86_400, 7, 180)
_MINUTE = 60
_FIELDS = ("project_id", "user_id", "api_key_id", "model", "batch", "service_tier")


@dataclass(slots=True)
class Line:
    """Tokens and requests that are billed together."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    requests: int = 0
    input_pico: int = 0
    cached_pico: int = 0
    cache_write_pico: int = 0
    output_pico: int = 0

    def add(self, other: "Line") -> None:
        """Add another one's."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


Key = tuple[int, str, str, str]
"""Minute, API key, model, tier."""


class Bill:
    """Everything that was billed, by the minute."""

    def __init__(self) -> None:
        self.lines: defaultdict[Key, Line] = defaultdict(Line)

    def clear(self) -> None:
        """Forget it all."""
        self.lines.clear()

    def book(self, entry: Entry, *, batch: bool = False) -> None:
        """Bill a request that has ended."""
        output = _billed_output(entry)
        if output is None:
            return
        minute = int(entry.time) // _MINUTE * _MINUTE
        tier = BATCH if batch else entry.service_tier
        line = Line(entry.input_tokens, entry.cached_tokens, entry.cache_write_tokens, output, 1)
        tariff = default_prices().tariff(entry.model)
        if tariff is not None:
            rates = tariff.served(tier, line.input, entry.time)[0].rates(line.input)
            line.input_pico = (line.input - line.cached - line.cache_write) * rates.input
            line.cached_pico = line.cached * rates.cached_input
            line.cache_write_pico = line.cache_write * rates.cache_write
            line.output_pico = line.output * rates.output
        self.lines[minute, entry.key, entry.model, tier].add(line)

    def answer(self, path: str, query: str) -> dict[str, Any]:
        """The page that a usage or costs request asks for; raises ApiError 400."""
        asked = parse_qs(query)
        if path == "costs":
            return self._page(asked, None)
        return self._page(asked, {"completions": "text", "embeddings": "embedding"}.get(path, "moderation"))

    def _page(self, asked: dict[str, list[str]], kind: str | None) -> dict[str, Any]:
        width, usual, most = _COSTS if kind is None else _width(asked)
        start = _number(asked, "start_time", None)
        end = _number(asked, "end_time", 2**40)
        limit = min(_number(asked, "limit", usual), most)
        groups = [*asked.get("group_by[]", ()), *asked.get("group_by", ())]
        first = int(asked["page"][0].removeprefix("page_")) if asked.get("page") else start // width * width
        last = max((key[0] for key in self.lines), default=start)
        stop = min(end, last + width)
        buckets: list[dict[str, Any]] = []
        at = first
        while at < stop and len(buckets) < limit:
            keys = [key for key in self.lines if at <= key[0] < at + width and start <= key[0] < end]
            results = _costs(keys, self.lines, groups) if kind is None else _usage(keys, self.lines, groups, kind)
            buckets.append({"object": "bucket", "start_time": at, "end_time": at + width, "results": results})
            at += width
        more = at < stop
        return {"object": "page", "data": buckets, "has_more": more, "next_page": f"page_{at}" if more else None}


def _billed_output(entry: Entry) -> int | None:
    """Output tokens of a request; None when it is not billed at all."""
    if not entry.model or entry.model not in MODELS or not entry.worked or entry.outcome == "refused":
        return None
    if entry.outcome == "answered" or not entry.stream:
        return entry.output_tokens
    return min(entry.output_tokens, entry.reasoning_tokens + entry.sent_tokens)


def _width(asked: dict[str, list[str]]) -> tuple[int, int, int]:
    name = asked.get("bucket_width", ["1d"])[0]
    if name not in WIDTHS:
        raise bad(f"Invalid 'bucket_width': choose one of {', '.join(WIDTHS)}.", "bucket_width", "invalid_value")
    return WIDTHS[name]


def _number(asked: dict[str, list[str]], name: str, otherwise: int | None) -> int:
    text = asked.get(name, [""])[0]
    if not text and otherwise is not None:
        return otherwise
    if not text.isdigit():
        raise bad(f"Missing or invalid '{name}': send Unix seconds.", name, "missing_required_parameter")
    return int(text)


def _usage(keys: Iterable[Key], lines: dict[Key, Line], groups: list[str], kind: str) -> list[dict[str, Any]]:
    sums: defaultdict[tuple[Any, ...], Line] = defaultdict(Line)
    for key in keys:
        if MODELS[key[2]].kind == kind:
            sums[tuple(_value(key, name) for name in groups)].add(lines[key])
    name = {"text": "completions", "embedding": "embeddings"}.get(kind, "moderations")
    results = []
    for group, line in sums.items():
        shown: dict[str, Any] = {"object": f"organization.usage.{name}.result", "input_tokens": line.input}
        shown |= {"num_model_requests": line.requests, **dict.fromkeys(_FIELDS)}
        if kind == "text":
            shown |= {
                "input_uncached_tokens": line.input - line.cached - line.cache_write,
                "input_cached_tokens": line.cached,
                "input_cache_write_tokens": line.cache_write,
                "output_tokens": line.output,
            }
        results.append(shown | dict(zip(groups, group, strict=True)))
    return results


def _costs(keys: Iterable[Key], lines: dict[Key, Line], groups: list[str]) -> list[dict[str, Any]]:
    sums: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for key in keys:
        for what, tokens, pico in _classes(lines[key]):
            item = f"{key[2]}, {what}"
            one = sums[tuple(item if name == "line_item" else _value(key, name) for name in groups)]
            one[0] += tokens
            one[1] += pico
    return [
        {
            "object": "organization.costs.result",
            "amount": {"value": pico / PICO_PER_USD, "currency": "usd"},
            **dict.fromkeys(("line_item", "project_id", "user_id", "api_key_id")),
            **dict(zip(groups, group, strict=True)),
            "quantity": tokens if "line_item" in groups else None,
            "quantity_unit": "tokens" if "line_item" in groups else None,
        }
        for group, (tokens, pico) in sums.items()
    ]


def _classes(line: Line) -> list[tuple[str, int, int]]:
    """Name, tokens and pico-dollars of each class that a line has."""
    plain = line.input - line.cached - line.cache_write
    found = [
        ("input_tokens", plain, line.input_pico),
        ("cached_input_tokens", line.cached, line.cached_pico),
        ("cache_write_tokens", line.cache_write, line.cache_write_pico),
        ("output_tokens", line.output, line.output_pico),
    ]
    return [each for each in found if each[1]]


def _value(key: Key, name: str) -> Any:
    return {
        "api_key_id": key[1],
        "model": key[2],
        "service_tier": None if key[3] == BATCH else key[3] or DEFAULT,
        "batch": key[3] == BATCH,
        "project_id": "proj_simulator",
    }.get(name)
