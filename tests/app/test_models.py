from __future__ import annotations

import contextlib
import copy
import datetime
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.model_document import KINDS, DocumentError, check
from app.models import DEFAULT_DOCUMENT, Models, default_document

SCHEMA = json.loads(Path(DEFAULT_DOCUMENT).with_name("models.schema.json").read_text())
DOCUMENT = default_document()
VALIDATOR = jsonschema.Draft4Validator(SCHEMA)

# What OpenAI has shut down or will by the end of 2027, and when.
SHUTDOWNS = {
    "gpt-3.5-turbo": "2026-10-23",
    "gpt-4": "2026-10-23",
    "gpt-4-turbo": "2026-10-23",
    "gpt-4.1": "2027-01-14",
    "gpt-4.1-mini": "2027-01-14",
    "gpt-4.1-nano": "2026-10-23",
    "gpt-4o": "2027-01-14",
    "gpt-4o-mini": "2027-01-14",
    "gpt-5": "2026-12-11",
    "gpt-5-mini": "2026-12-11",
    "gpt-5-nano": "2026-12-11",
    "gpt-5.1": "2027-04-01",
    "gpt-5.4-nano": "2027-04-01",
    "o1": "2026-10-23",
    "o3": "2026-12-11",
    "o3-mini": "2026-10-23",
    "o4-mini": "2026-10-23",
    "whisper-1": "2027-02-26",
}


def test_the_document_in_the_image_passes_the_schema_and_the_checks() -> None:
    jsonschema.Draft4Validator.check_schema(SCHEMA)
    VALIDATOR.validate(DOCUMENT)
    assert check(DOCUMENT) is DOCUMENT
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_no_default_is_shut_down_or_about_to_be() -> None:
    assert set(DOCUMENT["models"]).isdisjoint(SHUTDOWNS)
    assert datetime.date.fromisoformat(DOCUMENT["updated"]) <= datetime.date(2026, 11, 22)


def test_every_kind_has_a_model_and_the_aliases_of_the_readme_exist() -> None:
    models = Models(DOCUMENT)
    for kind in KINDS:
        assert models.names(kind)
    assert models.resolve("fast", "text").name == "gpt-6-luna"
    assert models.resolve("balanced", "text").name == "gpt-6.1-terra"
    assert models.resolve("best", "text").name == "gpt-6.2-sol"
    assert models.resolve("embed", "embedding").name == "text-embedding-3-small"
    assert models.resolve("moderate", "moderation").name == "omni-moderation-latest"
    assert models.resolve(models.product.answer_model, "text").name == models.resolve("balanced", "text").name


def test_a_model_has_the_documents_limits_or_its_own() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["models"]["gpt-6-luna"] |= {"output_tokens": {"default": 5, "maximum": 9}, "stop": ["END"]}
    models = Models(document)
    own, other = models.resolve("fast", "text"), models.resolve("best", "text")
    assert (own.default_output_tokens, own.max_output_tokens, own.stop) == (5, 9, ("END",))
    assert (other.default_output_tokens, other.max_output_tokens, other.stop) == (1024, 8192, ())
    assert (other.max_n, other.timeout_seconds, other.service_tiers) == (1, 120, ("default",))


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt-4", "text"), ("embed", "text"), ("gpt-6-luna", "embedding"), ("", "text")]
)
def test_an_unknown_model_is_answered_with_the_allowed_ones(name: str, kind: str) -> None:
    models = Models(DOCUMENT)
    with pytest.raises(ApiError) as caught:
        models.resolve(name, kind)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    for allowed in models.names(kind):
        assert allowed in caught.value.message


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["version"], "1", "version: '1' is not a whole number from 1 to 1000000000"),
        (["version"], True, "version: True is not a whole number from 1 to 1000000000"),
        (["updated"], datetime.date(2026, 11, 22), "updated: datetime.date(2026, 11, 22) is not a date"),
        (["default_model"], "gpt-7", "default_model: 'gpt-7' does not lead to a model of kind text"),
        (["default_model"], "embed", "default_model: 'embed' does not lead to a model of kind text"),
        (["aliases", "fast"], "gpt-7", "aliases.fast: 'gpt-7' is not in models"),
        (["aliases", "gpt-6-luna"], "gpt-6-luna", "aliases.gpt-6-luna: is the name of a model as well"),
        (["limits", "n"], 0, "limits.n: 0 is not a whole number from 1 to 128"),
        (["limits", "output_tokens", "default"], 9000, "limits.output_tokens: default 9000 is above maximum 8192"),
        (["limits", "service_tiers"], [], "limits.service_tiers: [] is not a list of 1 to 5"),
        (["limits", "service_tiers"], ["priority"], "limits.service_tiers[0]: 'priority' is not one of default"),
        (["limits", "stop"], ["a", "a"], "limits.stop[1]: 'a' stands there twice"),
        (["cache", "ttl"], 1, "cache.ttl: is unknown; known are ttl_seconds"),
        (["models", "gpt-6-luna", "kind"], "txt", "models.gpt-6-luna.kind: 'txt' is not one of text, embedding"),
        (["models", "gpt-6-luna", "price"], {}, "models.gpt-6-luna.price.input: is missing"),
        (["models", "gpt-7"], {"kind": "text"}, "models.gpt-7: has no row in app/prices.yaml; add its prices there"),
        (["models", "a model"], DOCUMENT["models"]["gpt-6-luna"], "models (a name): 'a model' is not a name"),
        (["product", "embedding_model"], "best", "product.embedding_model: 'best' does not lead to a model of kind"),
        (["limits", "tools"], 129, "limits.tools: 129 is not a whole number from 0 to 128"),
        (["limits", "first_token_timeout_seconds"], 0, "limits.first_token_timeout_seconds: 0 is not a whole number"),
        (
            ["models", "gpt-6-luna", "fallback"],
            ["gpt-7"],
            "models.gpt-6-luna.fallback[0]: 'gpt-7' is not another",
        ),
        (["models", "gpt-6-luna", "fallback"], ["gpt-6-luna"], "models.gpt-6-luna.fallback[0]: 'gpt-6-luna' is not"),
        (
            ["models", "gpt-6-luna", "fallback"],
            ["text-embedding-3-small"],
            "models.gpt-6-luna.fallback[0]: 'text-embedding-3-small' is not another model of kind text",
        ),
        (["budget", "cheaper"], {"embed": "fast"}, "budget.cheaper.embed: 'embed' is no model of kind text"),
        (["budget", "cheaper"], {"gpt-6-luna": "gpt-7"}, "budget.cheaper.gpt-6-luna: 'gpt-7' is not another model"),
        (
            ["budget", "cheaper"],
            {"gpt-6-luna": "gpt-6-sol"},
            "budget.cheaper.gpt-6-luna: 'gpt-6-sol' costs more than gpt-6-luna",
        ),
        (["budget", "cost_percent", "priority"], 30, "budget.cost_percent: no rung may cost more than the one before"),
        (["budget", "hold_runaways"], 1, "budget.hold_runaways: 1 is neither true nor false"),
        (["budget", "aim"], 1, "budget.aim: is unknown; known are aim_percent"),
        (["models"], {}, "models: has 0 entries, not 1 to 200"),
        (["keys"], None, "keys: None is not an object"),
    ],
)
def test_a_fault_is_named_by_its_path_and_its_value(path: list[str], value: object, problem: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DocumentError) as caught:
        Models(document)
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


def test_every_fault_is_named_at_once() -> None:
    document = copy.deepcopy(DOCUMENT)
    del document["keys"]
    document["limits"]["n"] = -1
    document["models"]["gpt-6-sol"]["price"] = {"input": "free"}
    with pytest.raises(DocumentError) as caught:
        check(document)
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "keys",
        "limits.n",
        "models.gpt-6-sol.price.input",
    ]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in inside for place in places(item, (*path, key))]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["", "0", "-1", "1.", "gpt-6-luna", "text", "x" * 500, 0, -1, 1, 1.5, 10**12]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@given(st.data())
def test_what_the_schema_refuses_the_checks_refuse(data: st.DataObject) -> None:
    document = copy.deepcopy(DOCUMENT)
    path = data.draw(st.sampled_from(places(document)))
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    change = data.draw(st.sampled_from(["set", "remove", "add"]))
    if change == "remove":
        del place[path[-1]]
    elif change == "add" and isinstance(place, dict):
        place[data.draw(st.text(max_size=12))] = data.draw(ANYTHING)
    else:
        place[path[-1]] = data.draw(ANYTHING)
    with contextlib.suppress(DocumentError):
        check(document)
        VALIDATOR.validate(document)


@given(ANYTHING)
def test_anything_else_is_refused_and_never_a_crash(value: object) -> None:
    with pytest.raises(DocumentError):
        check(value)


def test_a_document_from_before_the_price_file_still_loads_and_its_prices_are_not_read() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["models"]["gpt-6-luna"] |= {
        "price": {"input": "9.00", "cached_input": "9.00", "cache_write": "9.00", "output": "9.00"},
        "long_context": {"above_input_tokens": 1, "input_times": "9", "output_times": "9"},
        "source": "an older document",
    }
    VALIDATOR.validate(document)
    before, now = Models(document).resolve("fast", "text").price, Models(DOCUMENT).resolve("fast", "text").price
    assert before == now
