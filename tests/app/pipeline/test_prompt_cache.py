"""Prompts of one tenant share OpenAI's prompt cache; two tenants never do, whatever key they ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pipeline.endpoints import CHAT, EMBEDDINGS, RESPONSES
from app.pipeline.prompt_cache import FIELD, MOST_REMEMBERED_CHARACTERS, scoped
from tests.app.pipeline.test_pipeline import Gateway, gateway, upstream

__all__ = ["gateway", "upstream"]

LONG = "A rule that never changes. " * 400


TENANTS, WISHES = st.sampled_from(["acme", "bolt"]), st.text(max_size=300)


@given(TENANTS, TENANTS, WISHES, WISHES)
def test_keys_are_equal_for_one_tenant_and_one_wish_alone(first: str, second: str, one: str, two: str) -> None:
    keys = [scoped(RESPONSES, {FIELD: wish}, tenant)[FIELD] for tenant, wish in ((first, one), (second, two))]
    assert (keys[0] == keys[1]) == ((first, one) == (second, two))


def test_the_key_names_nobody_and_nothing_else_changes() -> None:
    document = {"input": "hi", FIELD: "x" * (MOST_REMEMBERED_CHARACTERS + 1)}
    changed = scoped(CHAT, document, "acme")
    assert {**changed, FIELD: None} == {**document, FIELD: None}
    assert "acme" not in changed[FIELD]
    assert scoped(EMBEDDINGS, {"input": "hi"}, "acme") == {"input": "hi"}


@pytest.mark.process
async def test_a_tenant_finds_its_own_beginning_cached_and_no_other_tenants(gateway: Gateway) -> None:
    async def cached(tenant: str, question: str, **fields: Any) -> int:
        body = {"model": "fast", "instructions": LONG, "input": question, "max_output_tokens": 50, **fields}
        identity = replace(gateway.identity, tenant=tenant, tokens_per_minute=1_000_000)
        reply = await gateway.run("/v1/responses", body, identity)
        assert isinstance(reply.body, bytes)
        return int(json.loads(reply.body)["usage"]["input_tokens_details"]["cached_tokens"])

    assert await cached("acme", "one") == 0
    assert await cached("acme", "two") > 1_000
    assert await cached("bolt", "three") == 0
    assert await cached("bolt", "four", prompt_cache_key="acme") == 0
