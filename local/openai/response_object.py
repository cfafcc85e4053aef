"""The Responses API: the answer as one object, or as the stream of events that builds it."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

import orjson

from local.openai.answers import Answer
from local.openai.ask import Ask
from local.openai.events import Event, padding
from local.openai.prompt_cache import Cached


def usage(cached: Cached, answer: Answer) -> dict[str, Any]:
    """The usage object; `input_tokens` includes cached and written tokens."""
    return {
        "input_tokens": cached.input_tokens,
        "input_tokens_details": {
            "cached_tokens": cached.read_tokens,
            "cache_write_tokens": cached.written_tokens,
            "cache_write_tokens_details": {
                "ttl_30m_tokens": 0 if cached.long else cached.written_tokens,
                "ttl_12h_tokens": cached.written_tokens if cached.long else 0,
            },
        },
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": cached.input_tokens + answer.output_tokens,
    }


def render(ask: Ask, answer: Answer, cached: Cached) -> dict[str, Any]:
    """The finished response object."""
    items = _items(ask, answer)
    status = "incomplete" if answer.finish == "length" else "completed"
    return _response(ask) | {
        "status": status,
        "completed_at": int(time.time()) if status == "completed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": items,
        "usage": usage(cached, answer),
    }


def _response(ask: Ask) -> dict[str, Any]:
    body = ask.body
    text = body.get("text") or {}
    tools = [{"strict": True, "description": None, "parameters": {}} | tool for tool in body.get("tools") or []]
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": body.get("metadata") or {},
        "model": ask.model.name,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True) is not False,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": ask.effort if ask.model.efforts else None, "summary": None},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": ask.service_tier,
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity", "medium")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": tools,
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
        "user": body.get("user"),
    }


def _items(ask: Ask, answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.reasoning_tokens:
        reasoning = {"id": f"rs_{secrets.token_hex(24)}", "type": "reasoning", "summary": []}
        if "reasoning.encrypted_content" in (ask.body.get("include") or []):
            reasoning["encrypted_content"] = secrets.token_urlsafe(96)
        items.append(reasoning)
    status = "incomplete" if answer.finish == "length" else "completed"
    if answer.tool:
        call = {"id": f"fc_{secrets.token_hex(24)}", "type": "function_call", "status": status}
        call |= {"call_id": f"call_{secrets.token_hex(12)}", "name": answer.tool.name, "arguments": answer.text}
        items.append(call)
    else:
        message = {"id": f"msg_{secrets.token_hex(24)}", "type": "message", "status": status, "role": "assistant"}
        items.append(message | {"content": [_part(answer.text)]})
    return items


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def events(finished: dict[str, Any], answer: Answer, obfuscate: bool) -> Iterator[Event]:
    """The events that build the response object `finished`, in OpenAI's order, numbered from 0."""
    number = 0

    def event(kind: str, tokens: int = 0, **fields: Any) -> Event:
        nonlocal number
        data = orjson.dumps({"type": kind, "sequence_number": number, **fields})
        number += 1
        return Event(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n", tokens)

    begun = finished | {"status": "in_progress", "output": [], "usage": None}
    begun |= {"completed_at": None, "incomplete_details": None}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for index, item in enumerate(finished["output"]):
        where = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "reasoning":
            yield event("response.output_item.added", output_index=index, item=item)
        elif item["type"] == "function_call":
            started = item | {"status": "in_progress", "arguments": ""}
            yield event("response.output_item.added", output_index=index, item=started)
            for piece in answer.pieces:
                extra = padding(piece, obfuscate)
                yield event("response.function_call_arguments.delta", 1, delta=piece, **where, **extra)
            yield event("response.function_call_arguments.done", arguments=answer.text, name=item["name"], **where)
        else:
            part = {"content_index": 0, **where}
            started = item | {"status": "in_progress", "content": []}
            yield event("response.output_item.added", output_index=index, item=started)
            yield event("response.content_part.added", part=_part(""), **part)
            for piece in answer.pieces:
                extra = padding(piece, obfuscate)
                yield event("response.output_text.delta", 1, delta=piece, logprobs=[], **part, **extra)
            yield event("response.output_text.done", text=answer.text, logprobs=[], **part)
            yield event("response.content_part.done", part=_part(answer.text), **part)
        yield event("response.output_item.done", output_index=index, item=item)
    yield event(f"response.{finished['status']}", response=finished)
