"""The Chat Completions API: reading a request, and its answer as one object or as a stream of chunks."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

import orjson

from local.openai import checks, forms
from local.openai.answers import Answer
from local.openai.ask import Ask, Tool, Turn, content_text
from local.openai.errors import bad, not_simulated, unsupported_parameter
from local.openai.events import Event, padding
from local.openai.models import Model
from local.openai.prompt_cache import Cached

_ROLES = ("system", "assistant", "user", "tool", "developer")
_MOST_STOPS = 4


def read(body: dict[str, Any], model: Model) -> Ask:
    """Check a request body and say what it asks."""
    checks.check(body, checks.CHAT, "model", "messages")
    effort = checks.check_model(body, model, "reasoning_effort", body.get("reasoning_effort"))
    cap = _output_cap(body, model)
    tools = [_tool(tool, index) for index, tool in enumerate(body.get("tools") or [])]
    if tools and model.chat_tools_need_no_effort and effort != "none":
        text = f"Function tools with reasoning_effort are not supported for {model.name} in /v1/chat/completions."
        raise bad(f"{text} Please use /v1/responses instead.", "reasoning_effort")
    if not body["messages"]:
        text = "empty array. Expected an array with minimum length 1, but got an empty array instead."
        raise bad(f"Invalid 'messages': {text}", "messages", "empty_array")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise bad("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    turns = [_turn(message, index) for index, message in enumerate(body["messages"])]
    choice = body.get("tool_choice")
    named = checks.an_object("tool_choice.function", choice.get("function")) if isinstance(choice, dict) else {}
    form = body.get("response_format") or {}
    ask = Ask(
        body,
        model,
        turns,
        effort,
        checks.effective_tier(body.get("service_tier"), model),
        max_output_tokens=cap,
        tools=tools,
        must_call=forms.forced_call(choice, named.get("name"), tools),
        may_call=choice != "none",
        schema=forms.text_format(form.get("type"), form.get("json_schema"), turns, "messages", "response_format"),
        stop=_stop(body.get("stop"), model),
        choices=body.get("n") or 1,
    )
    checks.check_context(ask.input_tokens, model, "messages")
    return ask


def _output_cap(body: dict[str, Any], model: Model) -> int | None:
    old, new = body.get("max_tokens"), body.get("max_completion_tokens")
    if old is not None and new is not None:
        text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise bad(text, "max_tokens", "invalid_parameter_combination")
    if old is not None and not model.max_tokens_parameter:
        raise unsupported_parameter("max_tokens", "Use 'max_completion_tokens' instead.")
    name, cap = ("max_completion_tokens", new) if old is None else ("max_tokens", old)
    checks.check_output_cap(name, cap, model)
    return cap


def _stop(value: Any, model: Model) -> tuple[str, ...]:
    if value is None:
        return ()
    if not model.stop_parameter:
        raise unsupported_parameter("stop")
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise checks.wrong_type("stop", "a string or an array of strings", value)
    if len(stops) > _MOST_STOPS:
        text = f"Expected an array with maximum length {_MOST_STOPS}, but got one with length {len(stops)} instead."
        raise bad(f"Invalid 'stop': array too long. {text}", "stop", "array_above_max_length")
    return tuple(stop for stop in stops if stop)


def _turn(value: Any, index: int) -> Turn:
    message = checks.an_object(f"messages[{index}]", value)
    role = message.get("role")
    checks.one_of(*_ROLES)(f"messages[{index}].role", role)
    text, images = content_text(message.get("content"))
    calls = checks.a_list(f"messages[{index}].tool_calls", message.get("tool_calls"))
    called = [str(call.get("function")) for call in calls if isinstance(call, dict)]
    spoken = "system" if role == "developer" else str(role)
    return Turn(spoken, "\n".join(filter(None, [text, *called])), images)


def _tool(value: Any, index: int) -> Tool:
    tool = checks.an_object(f"tools[{index}]", value)
    if tool.get("type") != "function":
        raise not_simulated(f"tools[{index}].type={tool.get('type')}")
    return forms.function(tool.get("function"), f"tools[{index}].function")


def usage(cached: Cached, answers: list[Answer]) -> dict[str, Any]:
    """The usage object; every choice is billed, the prompt once."""
    output = sum(answer.output_tokens for answer in answers)
    return {
        "prompt_tokens": cached.input_tokens,
        "completion_tokens": output,
        "total_tokens": cached.input_tokens + output,
        "prompt_tokens_details": {
            "cached_tokens": cached.read_tokens,
            "cache_write_tokens": cached.written_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.reasoning_tokens for answer in answers),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _shell(ask: Ask, kind: str) -> dict[str, Any]:
    shell: dict[str, Any] = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time())}
    return shell | {"model": ask.model.name, "service_tier": ask.service_tier, "system_fingerprint": "fp_simulator"}


def render(ask: Ask, answers: list[Answer], cached: Cached) -> dict[str, Any]:
    """The finished `chat.completion` object."""
    choices = [
        {"index": index, "message": _message(answer), "logprobs": None, "finish_reason": answer.finish}
        for index, answer in enumerate(answers)
    ]
    stored = {"metadata": ask.body["metadata"]} if ask.body.get("metadata") else {}
    return _shell(ask, "chat.completion") | stored | {"choices": choices, "usage": usage(cached, answers)}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.tool:
        call = {"name": answer.tool.name, "arguments": answer.text}
        message["content"] = None
        message["tool_calls"] = [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": call}]
    return message


def events(ask: Ask, answers: list[Answer], cached: Cached) -> Iterator[Event]:
    """The chunks of a streamed completion, the usage chunk when asked for, and `[DONE]`."""
    shell = _shell(ask, "chat.completion.chunk")
    with_usage = bool((ask.body.get("stream_options") or {}).get("include_usage"))
    rest: dict[str, Any] = {"usage": None} if with_usage else {}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, piece: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        extra = {} if piece is None else padding(piece, ask.obfuscates)
        return _data(shell | {"choices": [choice]} | rest | extra, 0 if piece is None else 1)

    for index, answer in enumerate(answers):
        if answer.tool:
            call = {"index": 0, "id": f"call_{secrets.token_hex(12)}", "type": "function"}
            call |= {"function": {"name": answer.tool.name, "arguments": ""}}
            yield chunk(index, {"role": "assistant", "content": None, "tool_calls": [call]})
            for piece in answer.pieces:
                part = {"index": 0, "function": {"arguments": piece}}
                yield chunk(index, {"tool_calls": [part]}, piece=piece)
        else:
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
            for piece in answer.pieces:
                yield chunk(index, {"content": piece}, piece=piece)
        yield chunk(index, {}, answer.finish)
    if with_usage:
        yield _data(shell | {"choices": [], "usage": usage(cached, answers)})
    yield Event(b"data: [DONE]\n\n")


def _data(value: dict[str, Any], tokens: int = 0) -> Event:
    return Event(b"data: " + orjson.dumps(value) + b"\n\n", tokens)
