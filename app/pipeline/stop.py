"""Stop sequences over text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first match of any sequence, wherever the text is split.

    The first match is the one that is complete first; of several complete at once the longest, which begins first.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        """`sequences` holds no empty text."""
        self._sequences = tuple(sequences)
        self._held = ""
        self.matched = False

    def feed(self, piece: str) -> str:
        """The text that is certain to stand before any match; sets `matched` when the match is complete."""
        text = self._held + piece
        ends = [(at + len(stop), -len(stop)) for stop in self._sequences if (at := text.find(stop)) >= 0]
        if ends:
            end, length = min(ends)
            self.matched = True
            self._held = ""
            return text[: end + length]
        certain = len(text) - self._beginning(text)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back, now that no more text follows."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a sequence."""
        longest = min(len(text), max(map(len, self._sequences)) - 1)
        for length in range(longest, 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._sequences if len(stop) > length):
                return length
        return 0
