"""What form an answer must take: the functions it may or must call, and the format of its text."""

from typing import Any

from local.openai import checks
from local.openai.ask import Tool, Turn
from local.openai.errors import bad, not_simulated
from local.openai.schemas import check_schema

_JSON_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}}
_NO_PARAMETERS = {"type": "object", "properties": {}}


def function(value: Any, param: str) -> Tool:
    """The function that `value` (name, parameters, strict) declares; `param` is where it stands."""
    fields = checks.an_object(param, value)
    name = checks.named(f"{param}.name", fields.get("name"))
    parameters = fields.get("parameters") or _NO_PARAMETERS
    check_schema(parameters, name, f"{param}.parameters", bool(fields.get("strict")))
    return Tool(name, parameters)


def forced_call(choice: Any, name: Any, tools: list[Tool]) -> str | None:
    """What a `tool_choice` forces: None, "any" tool, or the function `name`; 400 for a function that is not there."""
    if choice in (None, "auto", "none"):
        return None
    if choice == "required":
        if not tools:
            raise bad("Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice")
        return "any"
    if isinstance(choice, dict) and choice.get("type") == "function":
        if name not in [tool.name for tool in tools]:
            raise bad(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
        return str(name)
    raise not_simulated("tool_choice")


def text_format(kind: Any, form: Any, turns: list[Turn], where: str, param: str) -> dict[str, Any] | None:
    """The JSON schema the text must follow, None for plain text.

    `form` holds name, schema and strict; `where` is the parameter with the messages, `param` the one with the format.
    """
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        if not any("json" in turn.text.lower() for turn in turns):
            text = f"'{where}' must contain the word 'json' in some form, to use '{param}' of type 'json_object'."
            raise bad(text, where)
        return _JSON_OBJECT
    if kind != "json_schema":
        text = "Supported values are: 'json_object', 'json_schema', and 'text'."
        raise bad(f"Invalid value: '{kind}'. {text}", f"{param}.type", "invalid_value")
    fields = checks.an_object(param, form)
    name = checks.named(f"{param}.name", fields.get("name"))
    if fields.get("schema") is None:
        raise checks.missing(f"{param}.schema")
    check_schema(fields["schema"], name, f"{param}.schema", bool(fields.get("strict")))
    schema: dict[str, Any] = fields["schema"]
    return schema
