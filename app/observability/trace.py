"""W3C trace context: which trace a request belongs to, and which step of it each log line tells.

https://www.w3.org/TR/trace-context-2/. Nothing of it goes to OpenAI: its ids are our callers', no use of them there is
documented, and `upstream_request_id` in the log names the call to OpenAI already.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

HEADER = "traceparent"
STATE_HEADER = "tracestate"
MAX_STATE_CHARACTERS = 512  # what the standard asks everyone to carry at least
MAX_STATE_MEMBERS = 32
SAMPLED = 1

_PARENT, _STATE = HEADER.encode(), STATE_HEADER.encode()
_OWN_LENGTH = len("req_") + 32
_LENGTH = 55  # of version 00: 2 + 32 + 16 + 2 hexadecimal digits and three dashes
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


@dataclass(slots=True)
class Trace:
    """One step (a span) of a trace; never changed, and not frozen, which would triple what making one costs."""

    trace_id: str
    span_id: str
    parent_id: str | None
    """The step that asked for this one: the caller's, or the request that made this call."""
    flags: int
    state: str = ""
    """The caller's `tracestate` as it came, of a bounded length; `valid_state` says whether it is one."""

    @property
    def header(self) -> str:
        """`traceparent` as it names this step."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.flags & SAMPLED else '00'}"

    @property
    def sampled(self) -> bool:
        """Whether somebody wants the steps of this trace to be exported."""
        return bool(self.flags & SAMPLED)

    def child(self) -> Trace:
        """A step that this one asks for."""
        return Trace(self.trace_id, _new_span(), self.span_id, self.flags, self.state)


def begin(headers: Iterable[tuple[bytes, bytes]], request_id: str, *, sampled: bool) -> Trace:
    """The step that a request is: of the caller's trace, or the first of a new one.

    `headers` are raw, names in lower case. Without one valid `traceparent` a trace begins here: its id is made of
    `request_id`'s, so that each leads to the other, and it is `sampled` as said.
    """
    parent, state, parents = b"", b"", 0
    for name, value in headers:
        if name == _PARENT:
            parent, parents = value, parents + 1
        elif name == _STATE:
            state = state + b"," + value if state else value
    if parents == 1:
        found = _read(parent.decode("latin-1").strip())
        if found is not None:
            trace_id, parent_id, flags = found
            kept = state.decode("latin-1") if len(state) <= MAX_STATE_CHARACTERS else ""
            return Trace(trace_id, _new_span(), parent_id, flags, kept)
    return new(request_id, sampled=sampled)


def new(request_id: str, *, sampled: bool) -> Trace:
    """The first step of a new trace."""
    trace_id = request_id[4:]
    # An id of this service's own making is sixteen random bytes; any other may be anything.
    if len(request_id) != _OWN_LENGTH:
        trace_id = f"{random.getrandbits(128) | 1:032x}"
    return Trace(trace_id, _new_span(), None, SAMPLED if sampled else 0)


def valid_state(state: str) -> str:
    """A `tracestate` in the standard's form, empty members left out; empty when it is not one."""
    members = [member for member in (part.strip(" \t") for part in state.split(",")) if member]
    keys = {member.partition("=")[0] for member in members}
    whole = len(members) <= MAX_STATE_MEMBERS and len(keys) == len(members)
    return ",".join(members) if whole and all(map(_MEMBER.fullmatch, members)) else ""


def _read(text: str) -> tuple[str, str, int] | None:
    """Trace, parent and flags of a `traceparent`; None for anything else, as the standard asks."""
    version, length = text[:2], len(text)
    if length < _LENGTH or version == "ff" or (length > _LENGTH and (version == "00" or text[_LENGTH] != "-")):
        return None
    trace_id, parent_id, flags = text[3:35], text[36:52], text[53:55]
    if text[2] != "-" or text[35] != "-" or text[52] != "-" or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    digits = version + trace_id + parent_id + flags
    try:
        # Spaces are skipped and capitals taken there, so both are looked for.
        if len(bytes.fromhex(digits)) * 2 != len(digits) or digits != digits.lower():
            return None
    except ValueError:
        return None
    # Flags of later versions are not ours to repeat.
    return trace_id, parent_id, int(flags, 16) & SAMPLED


def _new_span() -> str:
    return (random.getrandbits(64) | 1).to_bytes(8).hex()
