"""Cut a text into overlapping passages whose offsets a citation can open again. Pure and deterministic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

BYTES_PER_TOKEN = 4
"""UTF-8 bytes of an average token of English. A token is never shorter than a byte, so a passage of 300 "tokens" has at
most 1,200 real ones in any script: far below the 8,192 an embedding model takes."""
OVERLAP_SHARE = 8
"""A passage repeats at most 1/8 of the one before, so that a sentence cut in two is whole in one of them."""
_LONGEST_CHARACTER_BYTES = 4
_LONGEST_BREAK = 4

# Where a passage may end, best first. Each match ends at the cut.
_BREAKS = (
    re.compile(r"\n[^\S\n]*\n\s*"),  # a blank line: the end of a paragraph
    re.compile(r"[.!?…][\"')\]’”]*\s+|[。！？]"),  # the end of a sentence
    re.compile(r"\n"),
    re.compile(r"\s+"),
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a text: `text == whole[start:end]`, offsets in characters."""

    start: int
    end: int
    text: str


def passages(text: str, tokens: int) -> Iterator[Passage]:
    """Yield passages of at most `tokens` estimated tokens that together cover every character of `text`, in order.

    Each starts after the start of the one before and at or before its end. An empty text has none. Raises ValueError
    when `tokens` is too small to hold any one character and its overlap.
    """
    size = tokens * BYTES_PER_TOKEN
    if size < OVERLAP_SHARE * _LONGEST_CHARACTER_BYTES:
        raise ValueError(f"tokens={tokens} is too few for a passage; choose at least {OVERLAP_SHARE}.")
    start = 0
    while start < len(text):
        limit = start + _characters(text, start, size)
        end = limit if limit == len(text) else _cut(text, start, limit)
        yield Passage(start, end, text[start:end])
        if end == len(text):
            return
        start = _resume(text, start, end, size // OVERLAP_SHARE)


def _characters(text: str, start: int, size: int) -> int:
    """How many characters from `start` fit into `size` bytes of UTF-8."""
    return len(text[start : start + size].encode()[:size].decode(errors="ignore"))


def _cut(text: str, start: int, limit: int) -> int:
    """The best place to end a passage in the later half of start..limit, or the limit when the text has no break."""
    earliest = start + max(1, (limit - start) // 2)
    for pattern in _BREAKS:
        ends = [found.end() for found in pattern.finditer(text, earliest, limit)]
        if ends:
            return ends[-1]
    return limit


def _resume(text: str, start: int, end: int, overlap: int) -> int:
    """Where the next passage starts: at the first sentence, else word, of the last `overlap` bytes before `end`."""
    tail = text[max(start + 1, end - overlap) : end].encode()
    earliest = end - len(tail[-overlap:].decode(errors="ignore"))
    for pattern in (_BREAKS[1], _BREAKS[3]):
        # A break may lie just before the first character that fits.
        for found in pattern.finditer(text, max(start, earliest - _LONGEST_BREAK), end):
            if earliest <= found.end() < end:
                return found.end()
    return end
