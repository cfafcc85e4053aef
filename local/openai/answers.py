"""What the simulated model says: a function of the request alone.

Where the input holds numbered sources, the answer is the sentence of theirs that fits the question best, with its
number. A request for "N words" gets that many; anything else gets the question put in other words.
"""

import hashlib
import itertools
import re
from dataclasses import dataclass

import orjson

from local.openai.ask import Ask, Tool, pieces
from local.openai.schemas import example
from local.openai.sources import best_sentence, content_words, question_of, sources_of

_WANTED_WORDS = re.compile(r"\b(\d{1,5}) words\b")
_MOST_WORDS = 20_000
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
        text = orjson.dumps(example(tool.parameters, question_of(ask.turns))).decode()
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
    if not ask.may_call or _told(ask):
        return None
    question = question_of(ask.turns).lower()
    return next((tool for tool in ask.tools if re.search(_spoken(tool.name), question)), None)


def _told(ask: Ask) -> bool:
    """Whether the last turn is a tool's output."""
    return bool(ask.turns) and ask.turns[-1].role == "tool"


def _spoken(name: str) -> str:
    """A pattern for a function's name as a person writes it: `get_weather` or "get weather"."""
    return r"\b" + re.sub(r"[_-]+", "[ _-]", re.escape(name.lower()).replace(r"\-", "-")) + r"\b"


def _say(ask: Ask, index: int) -> str:
    question = question_of(ask.turns)
    if _told(ask):
        return f"The tool answered: {ask.turns[-1].text.strip()}"
    sources = sources_of(ask.turns)
    if sources:
        return best_sentence(question, sources)
    wanted = _WANTED_WORDS.search(question)
    if wanted:
        return words(min(int(wanted[1]), _MOST_WORDS))
    return _paraphrase(question, index)


def _paraphrase(question: str, index: int) -> str:
    digest = hashlib.sha256(question.encode()).digest()
    opening = _OPENINGS[(digest[0] + index) % len(_OPENINGS)]
    subject = list(dict.fromkeys(content_words(question)))[:12]
    if not subject:
        return f"{opening} tell me more and I can answer."
    return f"{opening} this is about {', '.join(subject)}; what matters most is {subject[digest[1] % len(subject)]}."


def words(count: int) -> str:
    """What the model says when it is asked for `count` words."""
    return " ".join(itertools.islice(itertools.cycle(_FILLER.split(" ")), count))
