"""What the simulated model says: a function of the request alone.

Numbered sources (`[1] ...`) are answered from: the sentence that fits the question best, with its number. A request for
"N words" gets that many; anything else gets the question put in other words.
"""

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass

import orjson

from local.openai.ask import Ask, Tool, Turn, pieces
from local.openai.schemas import example

_SOURCE = re.compile(r"^[ \t]*\[(\d+)\][ \t]*", re.MULTILINE)
_QUESTION = re.compile(r"^[ \t]*(?:user[ \t]+)?question[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W_]+")
_WANTED_WORDS = re.compile(r"\b(\d{1,5}) words\b")
_MOST_WORDS = 20_000
_COMMON_WORDS = """
a an and are as at be by can could did do does for from had has have how i if in is it its many may much must of on
or our shall should so than that the their then there these they this those to us was we were what when where which
who whom whose why will with would you your
"""
_STOP_WORDS = frozenset(_COMMON_WORDS.split())
_OPENINGS = ("In short,", "Put simply,", "Briefly,", "The short answer:", "To answer that,")
_FILLER = "the answer depends on what is asked and on nothing else so equal questions get equal words"
_REASONING_TOKENS = {"none": 0, "minimal": 8, "low": 32, "medium": 96, "high": 320, "xhigh": 640, "max": 1280}


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice: text or a function call, in pieces of one token; `finish` is stop, length or tool_calls."""

    pieces: list[str]
    finish: str
    reasoning_tokens: int
    tool: Tool | None = None

    @property
    def text(self) -> str:
        """The whole text, or the call's arguments as JSON."""
        return "".join(self.pieces)

    @property
    def output_tokens(self) -> int:
        """Tokens billed as output: reasoning and text."""
        return self.reasoning_tokens + len(self.pieces)


def answer(ask: Ask, index: int = 0) -> Answer:
    """Choice number `index` for `ask`, cut at its stop sequences and at its output cap."""
    tool = _tool_to_call(ask)
    if tool is not None:
        text = orjson.dumps(example(tool.parameters, _question(ask.turns))).decode()
    elif ask.schema is not None:
        text = orjson.dumps(example(ask.schema, _say(ask, index))).decode()
    else:
        text = _say(ask, index)
    for stop in ask.stop:
        text = text.split(stop, 1)[0]
    cap = ask.max_output_tokens
    reasoning = _REASONING_TOKENS[ask.effort]
    if cap is not None:
        reasoning = min(reasoning, cap // 2)
    parts = pieces(text)
    room = len(parts) if cap is None else cap - reasoning
    finish = "length" if len(parts) > room else ("tool_calls" if tool else "stop")
    return Answer(parts[:room], finish, reasoning, tool)


def _tool_to_call(ask: Ask) -> Tool | None:
    if ask.must_call == "any":
        return ask.tools[0] if ask.tools else None
    if ask.must_call is not None:
        return next((tool for tool in ask.tools if tool.name == ask.must_call), None)
    if not ask.may_call or ask.turns[-1].role == "tool":
        return None
    question = _question(ask.turns).lower()
    return next((tool for tool in ask.tools if re.search(_spoken(tool.name), question)), None)


def _spoken(name: str) -> str:
    """A pattern for a function's name as a person writes it: `get_weather` or "get weather"."""
    return r"\b" + re.sub(r"[_-]+", "[ _-]", re.escape(name.lower()).replace(r"\-", "-")) + r"\b"


def _say(ask: Ask, index: int) -> str:
    question = _question(ask.turns)
    if ask.turns and ask.turns[-1].role == "tool":
        return f"The tool answered: {ask.turns[-1].text.strip()}"
    sources = _sources(ask.turns)
    if sources:
        return _from_sources(question, sources)
    wanted = _WANTED_WORDS.search(question)
    if wanted:
        return _words(min(int(wanted[1]), _MOST_WORDS))
    return _paraphrase(question, index)


def _question(turns: list[Turn]) -> str:
    """The last thing the user asks: what follows `Question:`, else the last user turn without its sources."""
    users = [turn.text for turn in turns if turn.role == "user"] or [turn.text for turn in turns[-1:]]
    text = users[-1] if users else ""
    marked = _QUESTION.split(text)
    if len(marked) > 1:
        return _SOURCE.split(marked[-1])[0].strip()
    before = _SOURCE.split(text)[0].strip()
    if before or not _SOURCE.search(text):
        return before
    asked = [line for line in text.splitlines() if line.strip().endswith("?")]
    return asked[-1].strip() if asked else text.strip()


def _sources(turns: list[Turn]) -> list[tuple[str, str]]:
    """The numbered sources as (number, text); what an assistant said before is no source."""
    found = []
    for turn in turns:
        if turn.role == "assistant":
            continue
        parts = _SOURCE.split(_QUESTION.split(turn.text)[0])
        if len(parts) == 1:
            parts = _SOURCE.split(turn.text)
        found += [(number, text.strip()) for number, text in zip(parts[1::2], parts[2::2], strict=True) if text.strip()]
    return found


def terms(text: str) -> list[str]:
    """The words that carry meaning, lower case, without the commonest English endings."""
    words = (word.lower() for word in _WORD.findall(text))
    return [_stem(word) for word in words if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    for ending in ("ations", "ation", "ings", "ing", "ies", "ied", "es", "ed", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _from_sources(question: str, sources: list[tuple[str, str]]) -> str:
    sentences = [
        (number, sentence.strip())
        for number, text in sources
        for sentence in _SENTENCE.split(text)
        if len(_WORD.findall(sentence)) > 1
    ]
    spread = Counter(term for _, sentence in sentences for term in set(terms(sentence)))
    wanted = set(terms(question))
    best, best_score = None, 0.0
    for number, sentence in sentences:
        shared = wanted.intersection(terms(sentence))
        score = sum(1 / spread[term] for term in shared) * 4 + len(shared)
        if sentence.endswith("?"):
            score /= 2
        if score > best_score:
            best, best_score = (number, sentence), score
    if best is None:
        return "The sources do not say."
    number, sentence = best
    return f"{sentence} [{number}]"


def _paraphrase(question: str, index: int) -> str:
    digest = hashlib.sha256(question.encode()).digest()
    opening = _OPENINGS[(digest[0] + index) % len(_OPENINGS)]
    subject = list(dict.fromkeys(word for word in _WORD.findall(question) if word.lower() not in _STOP_WORDS))[:12]
    if not subject:
        return f"{opening} tell me more and I can answer."
    return f"{opening} this is about {', '.join(subject)}; what matters most is {subject[digest[1] % len(subject)]}."


def _words(count: int) -> str:
    return " ".join(itertools.islice(itertools.cycle(_FILLER.split(" ")), count))
