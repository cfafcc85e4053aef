"""Read of an event only its text, where all the rest of it is known from one before."""

from __future__ import annotations

from typing import Any

import orjson

TRIES = 8
"""So often is it learnt what the events of a stream have in common: of some, as with log probabilities, no two do."""
_PADDED, _NUMBERED = "obfuscation", "sequence_number"
_TEXT, _PADDING, _NUMBER = "~", "~~", 987_654_321
"""Put in the places of what differs, to see whether they are that: the first two mean nothing outside of quotes."""


class Alike:
    """What a meter knows of the pieces of text of its stream, which are nearly all of its events.

    They are the same byte for byte, but for the text, a number, and letters that only fill up. What stands in the
    place of the text is read by itself, so such an event means what reading the whole of it would say; that the place
    is the text's was told by the same parser. An event in which anything else differs is read whole.
    """

    def __init__(self) -> None:
        self.output_bytes = 0
        self.answer: dict[str, Any] = {}
        """Of the answer as a whole."""
        self._told: dict[str, Any] | None = None
        """What such an event says of that; None = nothing."""
        self._head = self._tail = b""
        """Of such an event: up to the quote before its text, and from the last quote on. No head = nothing is known."""
        self._after = b""
        """From the quote after the text to the one before the letters that fill up; empty where there are none."""
        self._numbered: tuple[bytes, bytes] | None = None
        """The head before and after the number."""
        self._tries = TRIES

    def more(self, piece: bytes) -> bool:
        """Take one event that is a piece of text like the last; False = nothing happened, and it is to be seen."""
        head, tail, after = self._head, self._tail, self._after
        at, last = len(head), len(tail)
        if not at or piece[:at] != head or piece[-last:] != tail:
            return False
        if after:
            end = piece.find(after, at)
            if end < 0 or not piece[end + len(after) : -last].isalnum():
                return False
            quoted = piece[at - 1 : end + 1]
        else:
            quoted = piece[at - 1 : 1 - last]
        try:
            text = orjson.loads(quoted)
        except orjson.JSONDecodeError:
            return False
        self.output_bytes += len(text) if text.isascii() else len(text.encode())
        if self._told is not None:
            self.answer = self._told
        return True

    def _learn(self, name: str, data: bytes, document: dict[str, Any], holder: dict[str, Any], key: str) -> None:
        """Know the events like this one, which was read: `holder[key]`, a part of the document, is its text."""
        self._tries -= 1
        self._head = b""
        head, _, tail = data.rpartition(orjson.dumps(holder[key]))
        holes: list[tuple[dict[str, Any], str, object]] = [(holder, key, _TEXT)]
        after, filler, number, numbered = b"", b"", document.get(_NUMBERED), None
        if document.get(_PADDED) is not None:
            after, _, tail = tail.rpartition(orjson.dumps(document[_PADDED]))
            after, filler = b'"%b"' % after, _PADDING.encode()
            holes.append((document, _PADDED, _PADDING))
        if type(number) is int:
            before, name_of, rest = head.partition(b'"%b":' % _NUMBERED.encode())
            space = b" " if rest.startswith(b" ") else b""
            numbered = before + name_of + space, rest.removeprefix(space).removeprefix(b"%d" % number) + b'"'
            head = b"%b%d%b" % (numbered[0], _NUMBER, numbered[1][:-1])
            holes.append((document, _NUMBERED, _NUMBER))
        head, tail = head + b'"', b'"' + tail
        if b"\n" in data or not _means(head + _TEXT.encode() + after + filler + tail, document, holes):
            return
        begin = b"event: %b\ndata: " % name.encode() if name else b"data: "
        self._numbered = numbered and (begin + numbered[0], numbered[1])
        self._head, self._after, self._tail = begin + head, after, tail + b"\n\n"


def _means(probe: bytes, document: dict[str, Any], holes: list[tuple[dict[str, Any], str, object]]) -> bool:
    """Whether a probe is the document with these values in these places."""
    kept = [holder[key] for holder, key, _ in holes]
    for holder, key, value in holes:
        holder[key] = value
    try:
        return bool(orjson.loads(probe) == document)
    except orjson.JSONDecodeError:
        return False
    finally:
        for (holder, key, _), value in zip(holes, kept, strict=True):
            holder[key] = value
