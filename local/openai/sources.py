"""Finding the question and the numbered sources in a prompt, and the sentence that answers best.

A source is a line that starts with `[1]`, with what follows until the next one, or a JSON object on a line of its own
with a whole number (`source`, `number` or `id`) and its `text`.
"""

import re
from collections import Counter
from collections.abc import Iterator

import orjson

from local.openai.ask import Turn

_NUMBERED = re.compile(r"^[ \t]*\[(\d+)\][ \t]*", re.MULTILINE)
_QUESTION = re.compile(r"^[ \t]*(?:user[ \t]+)?question[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W_]+")
_MARKUP = "#*->| \t"
_COMMON_WORDS = """
a an and are as at be by can could did do does for from had has have how i if in is it its many may much must of on
or our shall should so than that the their then there these they this those to us was we were what when where which
who whom whose why will with would you your
"""
_STOP_WORDS = frozenset(_COMMON_WORDS.split())
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "es", "ed", "s", "y", "e")


def content_words(text: str) -> list[str]:
    """The words of `text` that carry meaning, as they are written."""
    return [word for word in _WORD.findall(text) if word.lower() not in _STOP_WORDS]


def terms(text: str) -> list[str]:
    """The words that carry meaning, lower case, without the commonest English endings."""
    return [_stem(word.lower()) for word in content_words(text)]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def question_of(turns: list[Turn]) -> str:
    """The last thing the user asks: what follows `Question:`, else the last user turn without its sources."""
    users = [turn.text for turn in turns if turn.role == "user"] or [turn.text for turn in turns[-1:]]
    text = users[-1] if users else ""
    marked = _QUESTION.split(text)
    if len(marked) > 1:
        return _NUMBERED.split(marked[-1])[0].strip()
    before = _NUMBERED.split(text)[0].strip()
    if before:
        return before
    asked = [line.strip() for line in text.splitlines() if line.strip().endswith("?")]
    return asked[-1] if asked else text.strip()


def sources_of(turns: list[Turn]) -> list[tuple[str, str]]:
    """The numbered sources as (number, text); what an assistant said before is no source."""
    found: list[tuple[str, str]] = []
    for turn in turns:
        if turn.role != "assistant":
            marked = _QUESTION.search(turn.text)
            text = turn.text[: marked.start()] + "\n" if marked and marked.start() else turn.text
            parts = _NUMBERED.split(text)
            found += zip(parts[1::2], parts[2::2], strict=True)
            found += _json_lines(text)
    return found


def _json_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        number = next((value[name] for name in ("source", "number", "id") if type(value.get(name)) is int), None)
        if number is not None and isinstance(value.get("text"), str):
            yield str(number), value["text"]


def best_sentence(question: str, sources: list[tuple[str, str]]) -> str:
    """The sentence that shares the rarest words with the question, followed by ` [n]`; the first of equals.

    What stands above a sentence (a heading, a question of a FAQ) counts half; a question is no answer itself.
    """
    candidates = [candidate for number, text in sources for candidate in _candidates(number, text)]
    spread = Counter(term for _, _, own, _ in candidates for term in own)
    wanted = set(terms(question))
    best, best_score = "", 0.0
    for number, sentence, own, above in candidates:
        score = sum(1 + 4 / spread[term] for term in wanted & own)
        score += sum(1 + 4 / max(1, spread[term]) for term in wanted & above - own) / 2
        if not sentence.endswith((".", "!")):
            score /= 3
        if score > best_score:
            best, best_score = f"{sentence} [{number}]", score
    return best or "The sources do not say."


def _candidates(number: str, text: str) -> Iterator[tuple[str, str, set[str], set[str]]]:
    """(number, sentence, its terms, the terms of the heading or question above it) of each possible answer."""
    above: set[str] = set()
    for part in _SENTENCE.split(text):
        sentence = part.strip(_MARKUP)
        if len(_WORD.findall(sentence)) < 2:
            continue
        own = set(terms(sentence))
        if not sentence.endswith("?"):
            yield number, sentence, own, above
        if not sentence.endswith((".", "!")):
            above = own
