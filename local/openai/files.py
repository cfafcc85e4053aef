"""The Files API: upload, list, read, delete. All keys are taken to be of one project, which its files belong to."""

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from local.openai.checks import missing, one_of
from local.openai.errors import ApiError, bad
from local.openai.request import Request
from local.openai.state import Simulator

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MOST_BYTES = 512 * 1024 * 1024
DAY_SECONDS = 86_400
_SHORTEST_LIFE_SECONDS, _LONGEST_LIFE_SECONDS = 3_600, 30 * DAY_SECONDS
_MOST_KEPT = 1_000
_MOST_LISTED = 10_000
_DISPOSITION = re.compile(rb'\b(name|filename)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class File:
    """One file. Times in seconds since 1970."""

    filename: str
    purpose: str
    content: bytes
    expires_at: int | None = None
    id: str = field(default_factory=lambda: f"file-{secrets.token_hex(12)}")
    created_at: int = field(default_factory=lambda: int(time.time()))

    def show(self) -> dict[str, Any]:
        """The file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


def add(simulator: Simulator, file: File) -> File:
    """Keep a file; the oldest goes when there are too many."""
    simulator.files[file.id] = file
    if len(simulator.files) > _MOST_KEPT:
        simulator.files.popitem(last=False)
    return file


def find(simulator: Simulator, name: str) -> File:
    """The file of an id; 404 when there is none or its life is over."""
    file = simulator.files.get(name)
    if file is None or (file.expires_at is not None and time.time() >= file.expires_at):
        raise ApiError(404, f"No such File object: {name}", param="id")
    return file


async def handle(request: Request, name: str) -> None:
    """Answer a request to /v1/files or below it; `name` is the rest of the path."""
    simulator, method = request.simulator, request.entry.method
    identifier, _, part = name.partition("/")
    if not name and method == "POST":
        await request.reply(add(simulator, _upload(request)).show())
    elif not name and method == "GET":
        await request.reply(_listed(request))
    elif method == "GET" and part == "content":
        await request.wire.whole(200, find(simulator, identifier).content, "application/octet-stream")
    elif method == "GET" and not part:
        await request.reply(find(simulator, identifier).show())
    elif method == "DELETE" and not part:
        del simulator.files[find(simulator, identifier).id]
        await request.reply({"id": identifier, "object": "file", "deleted": True})
    else:
        raise ApiError(404, f"Invalid URL ({method} {request.entry.path})")


def _upload(request: Request) -> File:
    fields = parts(request.entry.headers.get("content-type", ""), request.raw)
    if "file" not in fields:
        raise missing("file")
    if "purpose" not in fields:
        raise missing("purpose")
    purpose = fields["purpose"][1].decode()
    one_of(*PURPOSES)("purpose", purpose)
    filename, content = fields["file"]
    if len(content) > MOST_BYTES:
        raise ApiError(413, f"The file is larger than {MOST_BYTES} bytes.")
    if not content:
        raise bad("The file is empty.", "file", "invalid_file")
    life = _life(fields)
    if life is None and purpose == "batch":
        life = _LONGEST_LIFE_SECONDS
    return File(filename, purpose, content, None if life is None else int(time.time()) + life)


def _life(fields: dict[str, tuple[str, bytes]]) -> int | None:
    _, seconds = fields.get("expires_after[seconds]", ("", b""))
    if not seconds:
        return None
    _, anchor = fields.get("expires_after[anchor]", ("", b""))
    one_of("created_at")("expires_after[anchor]", anchor.decode())
    if not seconds.isdigit() or not _SHORTEST_LIFE_SECONDS <= int(seconds) <= _LONGEST_LIFE_SECONDS:
        text = f"Invalid 'expires_after[seconds]': choose {_SHORTEST_LIFE_SECONDS} to {_LONGEST_LIFE_SECONDS}."
        raise bad(text, "expires_after[seconds]", "invalid_value")
    return int(seconds)


def parts(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """The fields of a multipart form: name to (filename, content)."""
    found = re.search(r'boundary="?([^";]+)', content_type)
    if not content_type.startswith("multipart/form-data") or found is None:
        raise bad("Expected a multipart/form-data body with a boundary.")
    fields = {}
    for piece in (b"\r\n" + body).split(b"\r\n--" + found[1].encode())[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        names = {name: value.decode() for name, value in _DISPOSITION.findall(head)}
        fields[names.get(b"name", "")] = (names.get(b"filename", ""), content)
    return fields


def _listed(request: Request) -> dict[str, Any]:
    query = parse_qs(request.query)
    purpose = query.get("purpose", [None])[0]
    shown = [file.show() for file in request.simulator.files.values() if purpose in (None, file.purpose)]
    if query.get("order", ["desc"])[0] == "desc":
        shown.reverse()
    return page(shown, query, most=_MOST_LISTED, usual=_MOST_LISTED)


def page(items: list[dict[str, Any]], query: dict[str, list[str]], *, most: int, usual: int) -> dict[str, Any]:
    """The part of a list that `after` and `limit` ask for."""
    limit = query.get("limit", [str(usual)])[0]
    if not limit.isdigit() or not 1 <= int(limit) <= most:
        raise bad(f"Invalid 'limit': choose 1 to {most}.", "limit", "invalid_value")
    ids = [item["id"] for item in items]
    after = query.get("after", [""])[0]
    start = ids.index(after) + 1 if after in ids else 0
    data = items[start : start + int(limit)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + len(data) < len(items),
    }
