"""JSON values that satisfy a simple JSON schema, and the rules that strict schemas must follow."""

import math
from collections.abc import Callable
from typing import Any

from local.openai.errors import ApiError, bad

Schema = dict[str, Any]
_DEEPEST = 12
_FORMATS = {
    "date": "2026-11-22",
    "date-time": "2026-11-22T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_NUMBER = (int, float)
_KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "type": (str, list),
    "properties": dict,
    "required": list,
    "$defs": dict,
    "$ref": str,
    "items": dict,
    "enum": list,
    "anyOf": list,
    "oneOf": list,
    "allOf": list,
    "format": str,
    "minItems": int,
    "maxItems": int,
    "minLength": int,
    "maxLength": int,
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "multipleOf": _NUMBER,
}


def example(schema: Schema, text: str) -> Any:
    """A value for `schema`: free strings are `text`, numbers and choices follow from it."""
    return _Maker(schema, text).value(schema, 0)


class _Maker:
    def __init__(self, root: Schema, text: str) -> None:
        self.root = root
        self.text = text
        self.makers: dict[str, Callable[[Schema, int], Any]] = {
            "object": self.object,
            "array": self.array,
            "string": self.string,
            "number": self.number,
            "integer": lambda schema, depth: math.ceil(self.number(schema, depth)),
            "boolean": lambda _schema, _depth: len(self.text) % 2 == 0,
            "null": lambda _schema, _depth: None,
        }

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > _DEEPEST:
            return None
        if "$ref" in schema:
            return self.value(self.resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][len(self.text) % len(schema["enum"])]
        for union in ("anyOf", "oneOf", "allOf"):
            if schema.get(union):
                options = [option for option in schema[union] if option.get("type") != "null"]
                return self.value((options or schema[union])[0], depth + 1)
        kinds = schema.get("type", "object" if "properties" in schema else "string")
        kind = next((kind for kind in kinds if kind != "null"), "null") if isinstance(kinds, list) else kinds
        maker = self.makers.get(kind)
        return maker(schema, depth) if maker else None

    def resolve(self, reference: str) -> Any:
        found: Any = self.root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                found = found.get(step) if isinstance(found, dict) else None
        return found

    def object(self, schema: Schema, depth: int) -> dict[str, Any]:
        return {name: self.value(part, depth + 1) for name, part in schema.get("properties", {}).items()}

    def array(self, schema: Schema, depth: int) -> list[Any]:
        count = min(max(1, schema.get("minItems", 1)), schema.get("maxItems", math.inf))
        if depth + 1 > _DEEPEST:
            count = 0
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]

    def string(self, schema: Schema, _depth: int) -> str:
        text = _FORMATS.get(schema.get("format", ""), self.text)
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]

    def number(self, schema: Schema, _depth: int) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf) - 1)
        step = schema.get("multipleOf", 1)
        wanted = math.ceil(low / step) * step + len(self.text) % 10 * step
        return float(wanted) if wanted <= high else float(math.ceil(low / step) * step)


def check_schema(schema: Any, name: str, param: str, strict: bool, place: tuple[str, ...] = ()) -> None:
    """Refuse (400 `invalid_json_schema`) a malformed schema, a strict one also for open objects or optional keys."""
    if not isinstance(schema, dict):
        raise _invalid(name, param, place, "a schema must be an object.")
    for keyword, kinds in _KEYWORDS.items():
        if keyword in schema and (not isinstance(schema[keyword], kinds) or isinstance(schema[keyword], bool)):
            raise _invalid(name, param, place, f"'{keyword}' has the wrong type.")
    if strict and (schema.get("type") == "object" or "properties" in schema):
        _check_closed(schema, name, param, place)
    for keyword in ("properties", "$defs", "anyOf", "oneOf", "allOf"):
        parts = schema.get(keyword, {})
        for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            check_schema(part, name, param, strict, (*place, keyword, str(key)))
    if "items" in schema:
        check_schema(schema["items"], name, param, strict, (*place, "items"))


def _check_closed(schema: Schema, name: str, param: str, place: tuple[str, ...]) -> None:
    if schema.get("additionalProperties") is not False:
        raise _invalid(name, param, place, "'additionalProperties' is required to be supplied and to be false.")
    missing = [key for key in schema.get("properties", {}) if key not in schema.get("required", [])]
    if missing:
        need = "'required' is required to be supplied and to be an array including every key in properties."
        raise _invalid(name, param, place, f"{need} Missing '{missing[0]}'.")


def _invalid(name: str, param: str, place: tuple[str, ...], need: str) -> ApiError:
    return bad(f"Invalid schema for '{name}': In context={place}, {need}", param, "invalid_json_schema")
