"""What the simulated model says, and that no input breaks it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.openai import chat, embeddings, moderations, responses
from local.openai.answers import answer
from local.openai.ask import Ask, Turn, count_tokens, pieces
from local.openai.clock import ManualClock
from local.openai.errors import ApiError
from local.openai.models import MODELS
from local.openai.prompt_cache import Cached, PromptCache
from local.openai.response_object import events, render
from local.openai.schemas import example

LUNA = MODELS["gpt-6-luna"]
SOURCES = """[1] Delivery. Parcels are delivered within five days. We ship on weekdays.
[2] Refund policy
Refunds are paid within 30 days of the return. Keep your receipt.
[3] The office opens at nine."""
JSON_SOURCES = """Sources:
{"source": 1, "document": "office.md", "text": "The office opens at nine."}
{"source": 2, "document": "refunds.md", "text": "Refunds are paid within 30 days of the return. Keep your receipt."}"""
GOOD = "Refunds are paid within 30 days of the return. [2]"


def said(given: Any, **body: Any) -> str:
    """The answer to a Responses request."""
    asked = {"model": LUNA.name, "input": given, **body}
    return answer(responses.read(asked, LUNA, [])).text


@pytest.mark.parametrize(
    "given",
    [
        f"{SOURCES}\n\nQuestion: When are refunds paid?",
        f"Question: When are refunds paid?\n\n{SOURCES}",
        f"When are refunds paid?\n\n{SOURCES}",
        f"{SOURCES}\n\nWhen are refunds paid?",
        [{"role": "developer", "content": SOURCES}, {"role": "user", "content": "When are refunds paid?"}],
        [{"role": "user", "content": SOURCES}, {"role": "user", "content": "When are refunds paid?"}],
        [{"role": "user", "content": JSON_SOURCES}, {"role": "user", "content": "Question: When are refunds paid?"}],
        [{"role": "user", "content": [{"type": "input_text", "text": f"{JSON_SOURCES}\nWhen are refunds paid?"}]}],
    ],
)
def test_numbered_sources_are_answered_from_with_a_citation(given: Any) -> None:
    assert said(given) == GOOD


def test_sources_that_do_not_answer_are_not_cited() -> None:
    assert said(f"{SOURCES}\n\nQuestion: Who invented jazz?") == "The sources do not say."


def test_sources_may_stand_in_the_instructions() -> None:
    assert said("When does the office open?", instructions=SOURCES) == "The office opens at nine. [3]"


def test_a_heading_or_a_question_in_a_source_does_not_pass_for_its_answer() -> None:
    sources = "[1] Refund time\nWhen are refunds paid?\nRefunds come after 30 days."
    assert said(f"{sources}\n\nQuestion: When are refunds paid?") == "Refunds come after 30 days. [1]"
    assert said(f"[4] When are refunds paid?\nWithin 30 days.\n{SOURCES}\n\nQuestion: refunds paid when?") == GOOD
    assert said("[4] # Opening hours\nFrom nine to five.\n\nQuestion: Opening hours?") == "From nine to five. [4]"


def test_what_the_assistant_said_before_is_no_source() -> None:
    history = [
        {"role": "user", "content": SOURCES},
        {"role": "assistant", "content": "[9] Refunds are paid at once, whenever refunds are paid."},
        {"role": "user", "content": "When are refunds paid?"},
    ]
    assert said(history) == GOOD


def test_a_wanted_number_of_words_is_given() -> None:
    assert len(said("Write 250 words on sand.").split()) == 250


@given(st.text(max_size=200))
def test_tokens_are_pieces_and_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert len(pieces(text)) == count_tokens(text)


@given(text=st.text(max_size=300), cap=st.none() | st.integers(16, 200), effort=st.sampled_from(LUNA.efforts))
def test_an_answer_keeps_to_its_cap_and_its_events_build_it(text: str, cap: int | None, effort: str) -> None:
    body = {"model": LUNA.name, "input": text, "max_output_tokens": cap, "reasoning": {"effort": effort}}
    ask = responses.read(body, LUNA, [Turn("user", "before")])
    given_answer = answer(ask)
    assert given_answer == answer(ask)
    assert cap is None or given_answer.output_tokens <= cap
    finished = render(ask, given_answer, Cached(ask.input_tokens))
    assert sum(event.tokens for event in events(finished, given_answer, True)) == len(given_answer.pieces)


SIMPLE = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "string", "minLength": 30},
            {"type": "string", "maxLength": 3},
            {"type": "integer", "minimum": 5, "maximum": 9},
            {"type": "number", "exclusiveMinimum": 2.5},
            {"type": "integer", "multipleOf": 7},
            {"type": "boolean"},
            {"type": ["string", "null"]},
            {"enum": ["a", 2, None]},
            {"const": "x"},
            {"type": "string", "format": "date"},
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda item, low: {"type": "array", "items": item, "minItems": low}, inner, st.integers(0, 3)),
        st.builds(
            lambda parts: {"type": "object", "properties": parts, "required": sorted(parts)},
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
        ),
        st.builds(lambda part: {"anyOf": [{"type": "null"}, part]}, inner),
    ),
    max_leaves=8,
)


@given(schema=SIMPLE, text=st.text(max_size=60))
def test_an_example_satisfies_its_schema(schema: dict[str, Any], text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(example(schema, text), schema)


def test_a_schema_that_refers_to_itself_comes_to_an_end() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "all": {"type": "array", "items": {"$ref": "#"}}}}
    assert set(example(node, "x")) == {"next", "all"}
    assert example({"$ref": "#"}, "x") is None


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FUNCTION = {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
SHAPE = {"type": "object", "required": ["a"], "properties": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}]}}}
BODIES: list[dict[str, Any]] = [
    {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": '[1] a b.\n{"source": 2, "text": "c d"}'}]},
            {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "instructions": "be f",
        "tools": [{"type": "function"} | FUNCTION],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SHAPE}},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 20,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_options": {"mode": "implicit", "ttl": "12h"},
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "call f"}]},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "user", "content": "and?"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SHAPE}},
        "reasoning_effort": "none",
        "stop": ["a"],
        "n": 2,
        "metadata": {"a": "b"},
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    {"input": ["a", "b"], "dimensions": 8, "encoding_format": "base64"},
    {"input": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
]


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every node of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, part in inner for place in places(part, (*here, key)))]


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A good body in which up to two nodes are something else."""
    body: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from([place for place in places(body) if place]))
        at: Any = body
        for key in way:
            at = at[key]
        at[last] = draw(ODD)
    body["model"] = LUNA.name
    return body


@given(body=bodies())
def test_any_body_is_answered_or_refused_properly(body: dict[str, Any]) -> None:
    readers: list[Any] = [
        lambda: responses_in_full(responses.read(body, LUNA, [])),
        lambda: chat_in_full(chat.read(body, LUNA)),
        lambda: embeddings.read(body, MODELS["text-embedding-3-small"]),
        lambda: moderations.render(LUNA, moderations.read(body)),
    ]
    for reader in readers:
        error = refusal(reader)
        assert error is None or (400 <= error.status < 500 and error.message)


def refusal(reader: Callable[[], Any]) -> ApiError | None:
    """The error with which `reader` refuses, if it does."""
    try:
        reader()
    except ApiError as error:
        return error
    return None


def responses_in_full(ask: Ask) -> None:
    """Everything that is made of a Responses request."""
    made = answer(ask)
    cached = PromptCache(ManualClock()).look("key", ask)
    assert list(events(render(ask, made, cached), made, ask.obfuscates))


def chat_in_full(ask: Ask) -> None:
    """Everything that is made of a Chat Completions request."""
    made = [answer(ask, index) for index in range(ask.choices)]
    cached = PromptCache(ManualClock()).look("key", ask)
    assert chat.render(ask, made, cached)
    assert list(chat.events(ask, made, cached))
