"""The Responses API: reading a request."""

from typing import Any

from local.openai import checks
from local.openai.ask import Ask, Tool, Turn, content_text
from local.openai.errors import bad, not_simulated
from local.openai.models import Model
from local.openai.schemas import check_strict

_JSON_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}}


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
    ask = Ask(
        body,
        model,
        turns,
        effort,
        checks.effective_tier(body.get("service_tier"), model),
        max_output_tokens=body.get("max_output_tokens"),
        tools=tools,
        must_call=tool_choice(body.get("tool_choice"), tools),
        may_call=body.get("tool_choice") != "none",
        schema=answer_schema((body.get("text") or {}).get("format"), turns, "input", "text.format"),
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
    if not isinstance(item, dict):
        raise checks.wrong_type(f"input[{index}]", "an object", item)
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            text = "Supported values are: 'assistant', 'system', 'developer', and 'user'."
            raise bad(f"Invalid value: '{role}'. {text}", f"input[{index}].role", "invalid_value")
        return Turn("system" if role == "developer" else role, *content_text(item.get("content")))
    if kind == "function_call":
        return Turn("assistant", f"{item.get('name')} {item.get('arguments')}")
    if kind == "function_call_output":
        return Turn("tool", content_text(item.get("output"))[0])
    if kind == "reasoning":
        return None
    raise not_simulated(f"input[{index}].type={kind}")


def _tool(tool: Any, index: int) -> Tool:
    if not isinstance(tool, dict):
        raise checks.wrong_type(f"tools[{index}]", "an object", tool)
    if tool.get("type") != "function":
        raise not_simulated(f"tools[{index}].type={tool.get('type')}")
    if not tool.get("name"):
        raise checks.missing(f"tools[{index}].name")
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    if tool.get("strict"):
        check_strict(parameters, tool["name"], f"tools[{index}].parameters")
    return Tool(tool["name"], parameters)


def tool_choice(choice: Any, tools: list[Tool]) -> str | None:
    """What a `tool_choice` forces: None, "any" tool, or the name of one; 400 for a tool that is not there."""
    if choice in (None, "auto", "none"):
        return None
    if choice == "required":
        if not tools:
            raise bad("Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice")
        return "any"
    if isinstance(choice, dict) and choice.get("type") == "function":
        if choice.get("name") not in [tool.name for tool in tools]:
            raise bad(f"Tool choice '{choice.get('name')}' not found in 'tools' parameter.", "tool_choice")
        return str(choice["name"])
    raise not_simulated("tool_choice")


def answer_schema(form: dict[str, Any] | None, turns: list[Turn], where: str, param: str) -> dict[str, Any] | None:
    """The JSON schema that the answer must follow; `form` is a flat format, `where` the messages' parameter."""
    kind = (form or {}).get("type", "text")
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        if not any("json" in turn.text.lower() for turn in turns):
            text = f"'{where}' must contain the word 'json' in some form, to use '{param}' of type 'json_object'."
            raise bad(text, where)
        return _JSON_OBJECT
    if kind != "json_schema":
        text = "Supported values are: 'json_object', 'json_schema', and 'text'."
        raise bad(f"Invalid value: '{kind}'. {text}", f"{param}.type", "invalid_value")
    for name in ("name", "schema"):
        if not form.get(name):
            raise checks.missing(f"{param}.{name}")
    if form.get("strict"):
        check_strict(form["schema"], form["name"], f"{param}.schema")
    schema: dict[str, Any] = form["schema"]
    return schema
