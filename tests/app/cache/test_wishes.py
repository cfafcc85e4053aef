from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.place import Place, place_of
from app.cache.wishes import NONE, Wishes, idempotency_key, tags_of, wishes_of
from app.errors import ApiError
from app.keys import Identity
from app.models import Models, default_document
from app.pipeline import Call
from app.pipeline.choose import make_plan
from app.pipeline.endpoints import CHAT, EMBEDDINGS, MODERATIONS, RESPONSES, Endpoint

MODELS = Models(default_document())
IDENTITY = Identity("acme", "0" * 12, "test", "user", None, None)


@pytest.mark.parametrize(
    ("text", "wishes"),
    [
        ("no-cache", Wishes(no_cache=True)),
        ("max-age=0, No-Store", Wishes(no_store=True, max_age=0)),
        ("max-age=60", Wishes(max_age=60)),
        ("only-if-cached, max-stale=5", Wishes(only_if_cached=True, max_stale=5)),
        ("max-stale", Wishes(max_stale=10**9)),
        ("max-age=never, x, =, immutable", NONE),
        ("max-age=99999999999999999", Wishes(max_age=10**9)),
    ],
)
def test_the_directives_that_are_honoured(text: str, wishes: Wishes) -> None:
    assert wishes_of({"cache-control": text}) == wishes


@given(st.text(max_size=2_000))
def test_no_header_breaks_anything_but_by_a_refusal(text: str) -> None:
    wishes_of({"cache-control": text})
    for read in (tags_of, idempotency_key):
        with contextlib.suppress(ApiError):
            read({"x-prodkit-cache-tags": text, "idempotency-key": text})


def test_tags_are_sorted_and_each_once() -> None:
    assert tags_of({"x-prodkit-cache-tags": "b, a,b ,,a"}) == ("a", "b")


@pytest.mark.parametrize("text", ["a b", "-a", "a" * 65, ",".join("abcdefghi"), "a," * 600])
def test_a_tag_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        tags_of({"x-prodkit-cache-tags": text})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "x-prodkit-cache-tags")


def place(endpoint: Endpoint, headers: dict[str, str] | None = None, **more: Any) -> Place | None:
    model = {"text": "fast", "embedding": "embed", "moderation": "moderate"}[endpoint.kind]
    content: Any = [] if endpoint is CHAT else "hi"
    plan = make_plan(endpoint, {"model": model, endpoint.content: content, **more}, MODELS)
    return place_of(Call(endpoint.path, b"", IDENTITY, "req_1", headers or {}), plan)


@pytest.mark.parametrize(
    ("endpoint", "headers", "more", "kept"),
    [
        (RESPONSES, {}, {}, True),
        (CHAT, {}, {}, True),
        (EMBEDDINGS, {}, {}, True),
        (MODERATIONS, {}, {}, False),
        (RESPONSES, {}, {"stream": True}, True),
        (RESPONSES, {}, {"temperature": 1.0}, True),
        (RESPONSES, {}, {"temperature": 1.2}, False),
        (RESPONSES, {"cache-control": "no-cache"}, {}, True),
        (RESPONSES, {"cache-control": "no-store"}, {}, False),
        (MODERATIONS, {"idempotency-key": "k"}, {}, True),
        (RESPONSES, {"idempotency-key": "k"}, {"temperature": 2}, True),
    ],
)
def test_which_answers_may_be_kept(
    endpoint: Endpoint, headers: dict[str, str], more: dict[str, Any], kept: bool
) -> None:
    assert (place(endpoint, headers, **more) is not None) is kept


def keys(*places: Place | None) -> list[str]:
    return [found.at("1-1") for found in places if found is not None]


def test_an_alias_is_the_same_question_and_another_model_is_not() -> None:
    plain, alias, other = keys(place(RESPONSES), place(RESPONSES, model="gpt-6-luna"), place(RESPONSES, model="best"))
    assert plain == alias != other


def test_a_stream_an_epoch_and_an_idempotency_key_are_places_of_their_own() -> None:
    found = place(RESPONSES)
    assert found is not None
    answers = {
        found.at("1-1"),
        found.at("2-1"),
        *keys(place(RESPONSES, stream=True), place(RESPONSES, {"idempotency-key": "k"}), place(CHAT)),
    }
    assert len(answers) == 5


def test_a_policy_is_its_routes_own_where_it_has_one() -> None:
    document = default_document()
    document["cache"] = {"ttl_seconds": 60, "stale_seconds": 5, "routes": {"embeddings": {"ttl_seconds": 0}}}
    models = Models(document)
    assert (models.cache_policy("/v1/responses").ttl_seconds, models.cache_policy("/v1/responses").stale_seconds) == (
        60,
        5,
    )
    assert models.cache_policy("/v1/embeddings").ttl_seconds == 0
    assert models.cache_policy("/v1/moderations").ttl_seconds == 0
    document["cache"] = {"ttl_seconds": 60}  # as a document from before
    assert Models(document).cache_policy("/v1/chat/completions").stale_seconds == 0
