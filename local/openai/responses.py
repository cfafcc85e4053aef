"""The Responses API: reading a request."""

from typing import Any

from local.openai import checks, forms
from local.openai.ask import Ask, Tool, Turn, content_text
from local.openai.errors import not_simulated
from local.openai.models import Model

_ROLES = ("assistant", "system", "developer", "user")


def read(body: dict[str, Any], model: Model, earlier: list[Turn]) -> Ask:
    """Check a request body and say what it asks; `earlier` are the turns of `previous_response_id`."""
    checks.check(body, checks.RESPONSES, "model", "input")
    if (body.get("prompt_cache_options") or {}).get("prewarm"):
        raise not_simulated("prompt_cache_options.prewarm")
    effort = checks.check_model(body, model, "reasoning.effort", (body.get("reasoning") or {}).get("effort"))
    checks.check_output_cap("max_output_tokens", body.get("max_output_tokens"), model)
    tools = [_tool(tool, index) for index, tool in enumerate(body.get("tools") or [])]
    instructions = [Turn("system", body["instructions"])] if body.get("instructions") else []
    turns = instructions + earlier + _turns(body["input"])
    choice = body.get("tool_choice")
    form = checks.an_object("text.format", (body.get("text") or {}).get("format"))
    ask = Ask(
        body,
        model,
        turns,
        effort,
        checks.effective_tier(body.get("service_tier"), model),
        max_output_tokens=body.get("max_output_tokens"),
        tools=tools,
        must_call=forms.forced_call(choice, choice.get("name") if isinstance(choice, dict) else None, tools),
        may_call=choice != "none",
        schema=forms.text_format(form.get("type"), form, turns, "input", "text.format"),
    )
    if body.get("truncation") != "auto":
        checks.check_context(ask.input_tokens, model, "input")
    return ask


def _turns(value: Any) -> list[Turn]:
    if isinstance(value, str):
        return [Turn("user", value)]
    if not isinstance(value, list):
        raise checks.wrong_type("input", "a string or an array", value)
    return [turn for index, item in enumerate(value) if (turn := _turn(item, index)) is not None]


def _turn(item: Any, index: int) -> Turn | None:
    item = checks.an_object(f"input[{index}]", item)
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        checks.one_of(*_ROLES)(f"input[{index}].role", role)
        return Turn("system" if role == "developer" else str(role), *content_text(item.get("content")))
    if kind == "function_call":
        return Turn("assistant", f"{item.get('name')} {item.get('arguments')}")
    if kind == "function_call_output":
        return Turn("tool", content_text(item.get("output"))[0])
    if kind == "reasoning":
        return None
    raise not_simulated(f"input[{index}].type={kind}")


def _tool(value: Any, index: int) -> Tool:
    tool = checks.an_object(f"tools[{index}]", value)
    if tool.get("type") != "function":
        raise not_simulated(f"tools[{index}].type={tool.get('type')}")
    return forms.function(tool, f"tools[{index}]")
