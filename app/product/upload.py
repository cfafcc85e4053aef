"""What may be posted as a document, and what it becomes: a name and a text."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from app.errors import ApiError

MAX_TEXT_BYTES = 1024 * 1024
"""Of UTF-8. A larger text is several documents: its citations stay readable and its ingestion stays short."""
MAX_BODY_BYTES = 6 * MAX_TEXT_BYTES + 4096
"""JSON may write each byte as six (`\\u000a`)."""
MAX_NAME_CHARACTERS = 200
TEXT_TYPES = ("text/plain", "text/markdown")
JSON_TYPE = "application/json"
_UTF8_NAMES = ("utf-8", "utf8", "us-ascii")


@dataclass(frozen=True, slots=True)
class Upload:
    """A document as posted, checked."""

    name: str
    text: str

    @classmethod
    def read(cls, content_type: str | None, name: str | None, body: bytes) -> Upload:
        """The document in a request; `name` is the query's, for bodies that are the text itself.

        Raises ApiError: 415 for another media type or character set, 413 for a text over MAX_TEXT_BYTES, 400 naming the
        field for anything else.
        """
        media_type, _, parameters = (content_type or "").partition(";")
        media_type = media_type.strip().lower()
        if media_type == JSON_TYPE:
            name, text = _from_json(body)
        elif media_type in TEXT_TYPES:
            _check_charset(parameters)
            text = _decode(body)
        else:
            taken = ", ".join((*TEXT_TYPES, JSON_TYPE))
            raise ApiError(
                "unsupported_media_type", f"Send the document as one of {taken}; convert other formats to text."
            )
        return cls(_checked_name(name), _checked_text(text))


def _from_json(body: bytes) -> tuple[str | None, str]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ApiError("invalid_json", 'The body is not JSON; send {"name": "...", "text": "..."}.') from None
    if not isinstance(document, dict):
        raise ApiError("invalid_json", 'The body must be an object such as {"name": "...", "text": "..."}.')
    for field in document:
        if field not in ("name", "text"):
            raise ApiError(
                "unsupported_parameter", f"Unknown parameter for /documents: '{field[:80]}'.", param=field[:80]
            )
    name, text = document.get("name"), document.get("text")
    if not isinstance(text, str):
        raise ApiError("missing_required_parameter", "'text' must be a text.", param="text")
    if name is not None and not isinstance(name, str):
        raise ApiError("invalid_type", "'name' must be a text.", param="name")
    return name, text


def _check_charset(parameters: str) -> None:
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().strip('"').lower() not in _UTF8_NAMES:
            raise ApiError("unsupported_media_type", "The text must be UTF-8; convert it and send it again.")


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The text is not UTF-8 (byte {error.start}); convert it and send it again."
        raise ApiError("invalid_value", message, param="text") from None


def _checked_name(name: str | None) -> str:
    name = (name or "untitled").strip()
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        message = f"'name' must be 1 to {MAX_NAME_CHARACTERS} printable characters."
        raise ApiError("invalid_value", message, param="name")
    return name


def _checked_text(text: str) -> str:
    if len(text.encode()) > MAX_TEXT_BYTES:
        message = f"The text is longer than {MAX_TEXT_BYTES} bytes; cut it into several documents."
        raise ApiError("request_too_large", message, param="text")
    if not text.strip():
        raise ApiError("invalid_value", "The document holds no text.", param="text")
    if "\0" in text:
        raise ApiError("invalid_value", "The document is not text: it holds a NUL character.", param="text")
    return text
