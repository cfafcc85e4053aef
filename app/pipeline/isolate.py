"""Step: tenants share one OpenAI project, so nothing that OpenAI keeps under an id may be named by a request.

Ids would reach another tenant's responses, files, stores and containers; hosted tools would run there, unpriced. What
is passed instead lives in the request itself: text, inline images and files, function tools, encrypted reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from app.errors import ApiError
from app.pipeline.endpoints import CHAT, RESPONSES, Endpoint

TOOL_TYPES = frozenset({"function", "custom"})
"""Tools that the caller runs. Everything else is run by OpenAI."""
TOOL_CHOICE_TYPES = TOOL_TYPES | {"allowed_tools"}

ITEM_TYPES = frozenset(
    {
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "compaction",
    }
)
"""Input items that hold their content; an item without a type is a message."""
PRICED_CACHE_TTL = "30m"
"""Writes that OpenAI keeps for longer cost twice as much, and the usage of this service does not tell them apart."""
ENCRYPTED_ITEM_TYPES = frozenset({"reasoning", "compaction"})

# Names under which a request can point at something stored, wherever in the input they stand.
REFERENCES: Mapping[str, str] = {
    "file_id": "send the content inline (`file_data`, `image_url` or text)",
    "file_ids": "send the content inline (`file_data`, `image_url` or text)",
    "vector_store_id": "add documents at /documents and ask at /ask",
    "vector_store_ids": "add documents at /documents and ask at /ask",
    "container": "run code on your side behind a function tool",
    "container_id": "run code on your side behind a function tool",
    "item_id": "resend the item itself",
    "response_id": "resend the earlier turns in `input`",
    "previous_response_id": "resend the earlier turns in `input`",
    "conversation": "resend the earlier turns in `input`",
    "conversation_id": "resend the earlier turns in `input`",
}

_REFERENCE_NAMES = REFERENCES.keys()
_SEARCHED_BYTES = 64 * 1024
"""What is longer is mostly a picture, in which there is little to walk through and much to search."""

# Top-level fields that need stored state, work that outlives the request, or work at OpenAI that has no price here.
FORBIDDEN_FIELDS: Mapping[str, str] = {
    "previous_response_id": "answers are not stored; resend the earlier turns in `input`",
    "conversation": "conversations are not stored; resend the earlier turns in `input`",
    "prompt": "stored prompts are shared by all tenants; send `instructions` and `input`",
    "background": "background responses are stored; send the request without it, or stream",
    "background_options": "background responses are stored; send the request without it, or stream",
    "web_search_options": "hosted tools are off; use function tools",
    "audio": "spoken answers are not priced here, and a voice may be named by a stored id",
}


def isolated(endpoint: Endpoint, document: Mapping[str, Any], body: bytes) -> Mapping[str, Any]:
    """The document of a `body` with storing switched off; raises ApiError 403 `not_allowed` naming the first field that
    points outside the request."""
    if not FORBIDDEN_FIELDS.keys().isdisjoint(document):
        for name, instead in FORBIDDEN_FIELDS.items():
            if name in endpoint.fields and document.get(name) not in (None, False):
                _refuse(name, instead)
    if endpoint is not RESPONSES and endpoint is not CHAT:
        return document
    if "tools" in document or "tool_choice" in document:
        _check_tools(document)
    options = document.get("prompt_cache_options")
    if options:
        _check_cache_options(options)
    content = document[endpoint.content]
    if isinstance(content, list):
        _check_items(endpoint, content)
        if _may_refer(body) and _refers(content):
            _refuse_reference(content, endpoint.content)
    return {**document, "store": False}


def _check_tools(document: Mapping[str, Any]) -> None:
    for index, tool in enumerate(document.get("tools") or ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not _is_one_of(kind, TOOL_TYPES):
            _refuse(
                f"tools[{index}].type", f"only {_listed(TOOL_TYPES)} tools are allowed; hosted tools and MCP are off"
            )
    choice = document.get("tool_choice")
    if isinstance(choice, dict) and not _is_one_of(choice.get("type"), TOOL_CHOICE_TYPES):
        _refuse("tool_choice.type", f"choose one of {_listed(TOOL_CHOICE_TYPES)}")


def _check_items(endpoint: Endpoint, items: list[Any]) -> None:
    for index, item in enumerate(items):
        path = f"{endpoint.content}[{index}]"
        if not isinstance(item, dict):
            raise ApiError("invalid_type", f"Invalid type for '{path}': expected an object.", param=path)
        if endpoint is CHAT:
            if item.get("audio") is not None:
                _refuse(f"{path}.audio", "earlier audio is named by id; send its transcript as text")
            continue
        kind = item.get("type")
        if kind is None:
            # A bare {"id": ...} is a reference to a stored item.
            if "role" not in item:
                _refuse(path, "an item without a type must be a message with `role` and `content`")
        elif not _is_one_of(kind, ITEM_TYPES):
            _refuse(f"{path}.type", f"allowed items are {_listed(ITEM_TYPES)}")
        elif kind in ENCRYPTED_ITEM_TYPES and not item.get("encrypted_content"):
            _refuse(path, 'it would be read by id; ask for `include: ["reasoning.encrypted_content"]` and resend that')


def _check_cache_options(options: Mapping[str, Any]) -> None:
    if options.get("comparison_response_id") is not None:
        _refuse("prompt_cache_options.comparison_response_id", "answers are not stored; leave it out")
    if options.get("ttl") not in (None, PRICED_CACHE_TTL):
        _refuse("prompt_cache_options.ttl", f"only `{PRICED_CACHE_TTL}` has a price here")


def _may_refer(body: bytes) -> bool:
    """False when none of those names stands anywhere in a body, which most often is so: then nothing need be walked."""
    # One by one, and by `find`: a loop takes several times as long, and `in` raises and drops an exception first.
    return (
        len(body) > _SEARCHED_BYTES
        or body.find(b"\\u") >= 0  # begins the only other spelling of a letter
        or body.find(b"_id") >= 0
        or body.find(b"container") >= 0
        or body.find(b"conversation") >= 0
    )


def _refers(node: dict[str, Any] | list[Any]) -> bool:
    """Whether a field inside `node` has a name under which something stored is named; depth was bounded before."""
    if type(node) is dict and not _REFERENCE_NAMES.isdisjoint(node):
        return True
    for value in node.values() if type(node) is dict else node:
        if (type(value) is dict or type(value) is list) and _refers(value):
            return True
    return False


def _refuse_reference(node: dict[str, Any] | list[Any], path: str) -> None:
    """Refuse the first field inside `node` that names something stored, if there is one."""
    if type(node) is list:
        for index, value in enumerate(node):
            if type(value) is dict or type(value) is list:
                _refuse_reference(value, f"{path}[{index}]")
        return
    assert type(node) is dict
    for name, value in node.items():
        if name in REFERENCES and value is not None:
            _refuse(f"{path}.{name}", REFERENCES[name])
        if type(value) is dict or type(value) is list:
            _refuse_reference(value, f"{path}.{name}")


def _is_one_of(kind: object, allowed: frozenset[str]) -> bool:
    """A list or an object is not, and cannot even be looked for."""
    return isinstance(kind, str) and kind in allowed


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _refuse(path: str, instead: str) -> NoReturn:
    raise ApiError("not_allowed", f"'{path}' is not allowed here: {instead}.", param=path)
