"""The OpenAPI document of the web service, made of the same tables and bounds that the code checks requests by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.budgets.holds import MAX_WHY
from app.budgets.limits import SPANS, USD_PATTERN
from app.budgets.operate import FIELDS, WHY
from app.budgets.policy import Rung
from app.budgets.scope import PATTERN as SCOPE_PATTERN
from app.cache.wishes import TAG_PATTERN
from app.deferred.deadline import HEADER as DEADLINE_HEADER
from app.deferred.deadline import PATH as DEFERRED_PATH
from app.deferred.requests import ID as DEFERRED_ID
from app.deferred.requests import STATUSES
from app.errors import KINDS
from app.limits import BACKGROUND, INTERACTIVE, PRIORITY_HEADER
from app.model_document import KINDS as MODEL_KINDS
from app.model_document import MAX_STOP, MAX_STOP_CHARACTERS
from app.observability.trace import HEADER as TRACE_HEADER
from app.pipeline.bound import MAX_BODY_BYTES, MAX_EMBEDDING_ITEMS
from app.pipeline.defer import ENDPOINTS as DEFERRABLE
from app.pipeline.endpoints import EMBEDDINGS, ENDPOINTS, Endpoint, JsonTypes
from app.product.ask import MAX_QUESTION_CHARACTERS
from app.product.documents import ID
from app.product.routes import DEFAULT_PAGE, MAX_PAGE
from app.product.upload import MAX_NAME_CHARACTERS, MAX_TEXT_BYTES, TEXT_TYPES

if TYPE_CHECKING:
    from app.models import Models

PATH = "/openapi.json"
JSON, EVENTS = "application/json", "text/event-stream"
_TRACE = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
_CALLER_STATUSES = sorted({kind.status for kind in KINDS.values()})

Json = dict[str, Any]
_EVENTS: Json = {"description": "Server-sent events of the API; a stream that fails ends with an error event."}


def document(models: Models) -> Json:
    """The document while `models` is in force: which names a request may use is part of it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "prodkit",
            "version": models.version,
            "description": "OpenAI's API with policy, limits and accounting, and a product that answers from "
            f"documents. The version is the models document's. Under /v1 a body has {MAX_BODY_BYTES} bytes at most.",
        },
        "security": [{"key": []}],
        "paths": {
            **{path: {"post": _call(endpoint, models)} for path, endpoint in ENDPOINTS.items()},
            DEFERRED_PATH + "{deferred_id}": _one_deferred(),
            "/v1/models": {"get": _operation("The models and aliases that requests may name", _ref("ModelList"))},
            "/v1/models/{model}": {
                "get": _operation("One of them", _ref("Model")) | {"parameters": [_in_path("model", _models(models))]}
            },
            "/ask": {"post": _ask()},
            "/documents": {"get": _documents(), "post": _post_document()},
            "/documents/{document_id}": _one_document(),
            "/cache": {"delete": _invalidate()},
            "/budgets": {"get": _operation("What the tenant and the key may spend and have spent", _ref("BudgetList"))},
            "/budgets/{scope}/{span}": {
                "put": _set_budget("What a scope may spend from now on; takes an operator's key", FIELDS),
                "delete": _set_budget("Back to what the stack's settings say; takes an operator's key", WHY),
            },
            "/budgets/{scope}/hold": {
                "put": _hold("Refuse what a scope asks, on every replica within 2 s; takes an operator's key"),
                "delete": _hold("Let a scope spend again; takes an operator's key"),
            },
            "/health/live": {"get": _probe("The process answers", 200)},
            "/health/ready": {"get": _probe("Whether requests should be sent here", 200, 503)},
            PATH: {"get": _probe("This document", 200)},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A prodkit key."}},
            "schemas": _schemas(),
            "headers": {
                "x-request-id": {"schema": {"type": "string", "pattern": "^req_[0-9a-f]{32}$"}},
                TRACE_HEADER: {"schema": {"type": "string", "pattern": _TRACE}},
            },
        },
    }


def _call(endpoint: Endpoint, models: Models) -> Json:
    properties = {name: _field(types) for name, types in endpoint.fields.items()}
    properties["model"] = {"enum": [*models.names(endpoint.kind), None]}
    required = [endpoint.content]
    if endpoint.kind == "embedding":
        required.append("model")  # vectors of different models cannot be compared, so there is no default
        properties["model"] = {"enum": [*models.names(endpoint.kind)]}
    most = [models.resolve(name, endpoint.kind).max_output_tokens for name in models.names(endpoint.kind)]
    for cap in endpoint.output_caps:
        properties[cap] |= {"minimum": 1, "maximum": max(most)}
    if "stop" in properties:
        one = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
        properties["stop"] = {"anyOf": [one, {"type": "array", "items": one, "maxItems": MAX_STOP}, {"type": "null"}]}
    properties[endpoint.content] = _content(endpoint)
    body = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    answers: dict[str, Json] = {JSON: {"type": "object", "required": [endpoint.answer]}}
    if endpoint.streams:
        answers[EVENTS] = _EVENTS
    operation = _operation(f"As OpenAI's {endpoint.path}", answers)
    parameters = [
        _header(PRIORITY_HEADER, {"enum": [INTERACTIVE, BACKGROUND]}, "Who is shed first when there is no room."),
        _header(TRACE_HEADER, {"type": "string"}, "The trace to go on with; another form than W3C's begins one."),
    ]
    if endpoint in DEFERRABLE:
        duration = {"type": "string", "pattern": "^[0-9]{1,6}[smh]$", "example": "24h"}
        parameters.append(_header(DEADLINE_HEADER, duration, "The answer may come so much later, at half the price."))
        operation["responses"]["202"] = _operation("Kept for later", _ref("Deferred"), status=202)["responses"]["202"]
    return {
        **operation,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
    }


def _content(endpoint: Endpoint) -> Json:
    text: Json = {"type": "string", "minLength": 1}
    if endpoint is not EMBEDDINGS:
        return {"type": sorted(endpoint.fields[endpoint.content])}
    tokens: Json = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
    return {
        "anyOf": [
            text,
            tokens,
            {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_EMBEDDING_ITEMS},
            {"type": "array", "items": tokens, "minItems": 1, "maxItems": MAX_EMBEDDING_ITEMS},
        ]
    }


def _ask() -> Json:
    question = {"type": "string", "minLength": 1, "maxLength": MAX_QUESTION_CHARACTERS, "pattern": r"\S"}
    body = _object({"question": question, "stream": {"type": "boolean", "default": True}}, "question")
    answer = {"answer": {"type": "string"}, "sources": {"type": "array"}, "citations": {"type": "array"}}
    answers: dict[str, Json] = {
        JSON: {"type": "object", "properties": answer, "required": [*answer]},
        EVENTS: _EVENTS,
    }
    return {
        **_operation("An answer from the caller's own documents, streamed unless `stream` is false", answers),
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
    }


def _documents() -> Json:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}
    return {
        **_operation("The caller's documents, newest first", _ref("DocumentList")),
        "parameters": [_in_query("limit", limit), _in_query("after", _document_id())],
    }


def _post_document() -> Json:
    # A pattern for what a name or a text must not hold: control characters, or nothing but spaces.
    name = {"type": ["string", "null"], "maxLength": MAX_NAME_CHARACTERS, "pattern": "^[A-Za-z0-9][A-Za-z0-9 ._-]*$"}
    text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_BYTES, "pattern": r"^[^\u0000]*\S[^\u0000]*$"}
    content: dict[str, Json] = {JSON: {"schema": _object({"name": name, "text": text}, "text")}}
    content |= {kind: {"schema": text} for kind in TEXT_TYPES}
    return {
        **_operation("Keep a document; it is read soon after", _ref("Document"), status=202),
        "parameters": [_in_query("name", name | {"type": "string"})],
        "requestBody": {"required": True, "content": content},
    }


def _one_document() -> Json:
    place = {"parameters": [_in_path("document_id", _document_id())]}
    deleted = _object({"id": _document_id(), "object": {}, "deleted": {"const": True}}, "id", "object", "deleted")
    return {
        "get": _operation("One document with its status", _ref("Document")) | place,
        "delete": _operation("Gone from storage, every search and every kept answer", {JSON: deleted}) | place,
    }


def _one_deferred() -> Json:
    name = {"type": "string", "pattern": f"^{DEFERRED_ID.pattern.removesuffix(chr(92) + 'Z')}$"}
    place = {"parameters": [_in_path("deferred_id", name)]}
    return {
        "get": _operation("How a request that may wait stands, with its answer", _ref("Deferred")) | place,
        "delete": _operation("Cancelled while it is open, forgotten when it is over", {JSON: {"type": "object"}})
        | place,
    }


def _invalidate() -> Json:
    tag = {"type": "string", "pattern": f"^{TAG_PATTERN}$"}
    gone = _object({"object": {}, "tag": {"type": ["string", "null"]}}, "object", "tag")
    summary = "No kept answer of this tenant, or of one tag of it, is given any more"
    return {**_operation(summary, {JSON: gone}), "parameters": [_in_query("tag", tag)]}


def _set_budget(summary: str, fields: Sequence[str]) -> Json:
    limit: Json = {"limit_usd": {"type": ["string", "null"], "pattern": f"^{USD_PATTERN}$"}}
    properties = {name: {**limit, "why": _WHY}[name] for name in fields}
    return _change(summary, _ref("Budget"), properties, _in_path("span", {"enum": [*SPANS]}))


def _hold(summary: str) -> Json:
    return _change(summary, _ref("Hold"), {"why": _WHY})


def _change(summary: str, answer: Mapping[str, Json], properties: Json, *parameters: Json) -> Json:
    scope = _in_path("scope", {"type": "string", "pattern": f"^({SCOPE_PATTERN})$"})
    return {
        **_operation(summary, answer),
        "parameters": [scope, *parameters],
        "requestBody": {"required": True, "content": {JSON: {"schema": _object(properties, *properties)}}},
    }


def _probe(summary: str, *statuses: int) -> Json:
    answer = {"description": summary, "content": {JSON: {"schema": {"type": "object"}}}}
    # It needs no key, and passes the gate that the others wait at.
    return {"summary": summary, "security": [], "responses": {str(status): answer for status in statuses}}


def _operation(summary: str, answers: Mapping[str, Json], *, status: int = 200) -> Json:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", TRACE_HEADER)}
    error = {"description": "Refused or failed", "headers": headers, "content": {JSON: {"schema": {"$ref": _ERROR}}}}
    content = {media: {"schema": schema} for media, schema in answers.items()}
    good = {"description": summary, "headers": headers, "content": content}
    return {"summary": summary, "responses": {str(status): good, **{str(bad): error for bad in _CALLER_STATUSES}}}


_ERROR = "#/components/schemas/Error"
# It has to be printable and to say something: here only ASCII is promised to pass.
_WHY: Json = {"type": "string", "maxLength": MAX_WHY, "pattern": "^[ -~]*[!-~][ -~]*$"}


def _schemas() -> Json:
    error: Json = {"message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]}}
    error["code"] = {
        "description": f"Of this service: {', '.join(KINDS)}; OpenAI's own codes pass.",
        "type": ["string", "null"],
    }
    # OpenAI adds fields to its errors, so more are allowed.
    inner = {"type": "object", "properties": error, "required": [*error]}
    named = {"id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"}}
    kept = {
        "id": _document_id(),
        "object": {"const": "document"},
        "name": {"type": "string"},
        "status": {"enum": ["pending", "ready", "failed"]},
        "reason": {"type": ["string", "null"]},
        "bytes": {"type": "integer"},
        "chunks": {"type": "integer"},
        "created_at": {"type": "integer"},
    }
    ends = {name: {"type": ["string", "null"]} for name in ("first_id", "last_id")}
    pico = {
        name: {"type": ["string", "null"], "pattern": "^-?[0-9]+$"}
        for name in ("limit_pico", "spent_pico", "left_pico")
    }
    budget = {"scope": {"type": "string"}, "span": {"enum": [*SPANS]}, "window": {"type": "string"}, **pico}
    hold = {"object": {"const": "hold"}, "scope": {"type": "string"}, "held": {"type": "boolean"}}
    hold |= {name: {"type": "string"} for name in ("since", "by", "why")}
    waiting = {"id": {"type": "string"}, "object": {"const": "deferred"}, "status": {"enum": [*STATUSES]}}
    lists = {
        name: {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
        for name in ("Model", "Document", "Budget")
    }
    return {
        "Error": _object({"error": inner}, "error"),
        "Model": _object({**named, "owned_by": {"type": "string"}}, *named),
        "ModelList": _object({"object": {"const": "list"}, "data": lists["Model"]}, "object", "data"),
        "Deferred": {"type": "object", "properties": waiting, "required": [*waiting]},
        "Document": _object(kept, *kept),
        "Budget": {"type": "object", "properties": budget, "required": [*budget, "held"]},
        "Hold": {"type": "object", "properties": hold, "required": ["object", "scope", "held"]},
        "BudgetList": {
            "type": "object",
            "properties": {"data": lists["Budget"], "rung": {"enum": [rung.label for rung in Rung]}},
            "required": ["object", "data", "rung", "meaning"],
        },
        "DocumentList": _object(
            {"object": {"const": "list"}, "data": lists["Document"], **ends, "has_more": {"type": "boolean"}},
            *("object", "data", "has_more"),
        ),
    }


def _object(properties: Json, *required: str) -> Json:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _ref(name: str) -> Mapping[str, Json]:
    return {JSON: {"$ref": f"#/components/schemas/{name}"}}


def _field(types: JsonTypes) -> Json:
    return {"type": [*sorted(types), "null"]}


def _models(models: Models) -> Json:
    return {"enum": [name for kind in MODEL_KINDS for name in models.names(kind)]}


def _document_id() -> Json:
    return {"type": "string", "pattern": f"^{ID.pattern.removesuffix(chr(92) + 'Z')}$"}


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _in_query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _in_path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}
