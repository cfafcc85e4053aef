"""The tier that replicas share, on a real Valkey, single and as a cluster: who asks, who waits, and what they get."""

from __future__ import annotations

import secrets
import shutil

import pytest

from app.cache.answers import Answers
from app.cache.place import Place
from app.cache.scripts import CLAIMED, HEAD_BYTES
from tests.app.cache.conftest import MakeReplica, kept, place_at

pytestmark = pytest.mark.process

LONG, SHORT = 200_000, 20_000
"""Milliseconds of a claim: longer and shorter than an answer is kept here."""


async def new_place(answers: Answers) -> Place:
    return await place_at(answers, "acme", secrets.token_hex(4))


async def test_what_nobody_asks_and_what_is_kept_is_one_native_command_and_only_who_waits_runs_a_script(
    make_replica: MakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = await make_replica()
    place, sent = await new_place(answers), []
    ask = answers.valkey.ask

    def spy(command: tuple[object, ...], *, ahead: bool = False) -> object:
        if place.key in command:
            sent.append(command[0])
        return ask(command, ahead=ahead)  # type: ignore[arg-type]

    monkeypatch.setattr(answers.valkey, "ask", spy)
    assert (await answers.store.claim(place, "t", SHORT)).token == "t"
    assert sent == ["SET"]
    assert 0 < await answers.valkey.call("PTTL", place.key) <= SHORT
    sent.clear()
    waiting = await answers.store.claim(place, "u", SHORT)
    assert (waiting.entry, waiting.token, waiting.owner) == (None, "t", answers.watch.replica)
    assert sent == ["SET", "EVALSHA"]
    assert await kept(answers, place, "t", b"{}")
    sent.clear()
    assert (await answers.store.claim(place, "u", SHORT)).entry is not None
    assert sent == ["SET"]


async def test_an_answer_is_given_while_one_replica_makes_it_new(make_replica: MakeReplica) -> None:
    answers = await make_replica()
    store, place = answers.store, await new_place(answers)
    assert await kept(answers, place, "t", b"old")
    assert (await store.claim(place, "first", LONG, anew=True)).token == "first"
    for anew in (False, True):  # nobody else asks
        found = (await store.claim(place, "second", LONG, anew=anew)).entry
        assert found is not None
        assert found.body == b"old"
    assert await answers.valkey.call("PTTL", place.key) > SHORT + 90_000, "as long as it is made, or a second one asks"
    assert not await kept(answers, place, "second", b"not its to write")
    await store.release(place, "second", None)
    assert (await store.claim(place, "second", LONG, anew=True)).entry is not None
    await store.release(place, "first", None)
    assert (await store.claim(place, "third", LONG, anew=True)).token == "third"
    assert await kept(answers, place, "third", b"new")
    assert (await store.claim(place, "fourth", LONG, anew=True)).token == "fourth"


async def test_one_asks_anew_what_is_asked_already_or_gone(make_replica: MakeReplica) -> None:
    answers = await make_replica()
    store, place = answers.store, await new_place(answers)
    assert (await store.claim(place, "first", SHORT, anew=True)).token == "first"
    assert (await store.claim(place, "second", SHORT, anew=True)).token == "first"
    assert (await store.claim(place, "third", SHORT)).token == "first"
    assert await kept(answers, place, "first", b"{}")
    assert (await store.claim(place, "second", SHORT, anew=True)).token == "second"
    await answers.valkey.call("DEL", place.key)  # evicted: whoever asks next is the one
    assert (await store.claim(place, "third", SHORT)).token == "third"
    assert not await kept(answers, place, "second", b"no longer the one")
    assert await kept(answers, place, "third", b"{}")
    assert (await store.claim(place, "fourth", SHORT, anew=True)).token == "fourth"


async def test_who_waits_is_given_what_is_not_kept_though_another_asks_by_then(make_replica: MakeReplica) -> None:
    answers = await make_replica()
    store, place = answers.store, await new_place(answers)
    borrowed = answers.made(place, b"cut", "m")
    for waits in (True, False):
        assert (await store.claim(place, "t", SHORT)).token == "t"
        if waits:
            assert (await store.claim(place, "u", SHORT)).token == "t"
        await store.release(place, "t", borrowed)
        assert (await store.claim(place, "v", SHORT)).token == "v", "it is nobody's answer to a new question"
        said = await store.follow(place, "t", 3)  # of its stream, which somebody has heard so far
        assert said.over == waits
        assert said.entry == (borrowed if waits else None)
        assert said.token == ("" if waits else "v")
        await store.release(place, "v", None)
        await answers.valkey.call("DEL", f"{place.key}:t")


async def test_the_text_of_a_stream_is_its_askers_alone_and_stays_as_long_as_the_claim(
    make_replica: MakeReplica,
) -> None:
    answers = await make_replica()
    store, place = answers.store, await new_place(answers)
    assert (await store.claim(place, "old", LONG)).token == "old"
    assert await store.publish(place.key, "old", b"one ", 0)
    assert await store.publish(place.key, "old", b"two", 4)
    assert (await store.follow(place, "old", 4)).text == b"two"
    assert await answers.valkey.call("PTTL", f"{place.key}:old") > LONG / 2, "however long the model is silent"
    assert await store.take_over(place, "old", "new", LONG)
    assert not await store.publish(place.key, "old", b" three", 7)
    assert (await store.follow(place, "new", 0)).text == b""
    assert (await store.follow(place, "old", 0)).token == "new"
    assert await store.publish(place.key, "new", b"another", 0)
    assert (await store.follow(place, "new", 0)).text == b"another"


async def test_a_stream_whose_text_was_evicted_goes_on_with_its_kept_answer_and_with_no_gap(
    make_replica: MakeReplica,
) -> None:
    answers = await make_replica()
    store, place = answers.store, await new_place(answers)
    assert (await store.claim(place, "t", LONG)).token == "t"
    assert await store.publish(place.key, "t", b"one ", 0)
    await answers.valkey.call("DEL", f"{place.key}:t")
    assert not await store.publish(place.key, "t", b"two three", 4)
    assert (await store.follow(place, "t", 4)).text == b""
    assert await kept(answers, place, "t", b"one two three")


WORTHLESS: tuple[tuple[str, ...], ...] = (
    ("SET", ""),
    ("SET", "garbage"),
    ("SET", "\0" * 200),
    ("SET", "A" + "\0" * 200),
    ("SET", CLAIMED),
    ("SET", f"{CLAIMED}0t"),
    ("SET", f"{CLAIMED}0{'t' * HEAD_BYTES} replica "),
    ("SET", f"{CLAIMED}0t repl\nica "),
    ("HSET", "t", "as version 5 had it"),
    ("RPUSH", "of another type"),
)


@pytest.mark.parametrize("anew", [False, True])
async def test_what_is_damaged_or_foreign_is_as_good_as_nothing(make_replica: MakeReplica, anew: bool) -> None:
    answers = await make_replica()
    for name, *values in WORTHLESS:
        if name != "SET" and not shutil.which("redis-server"):
            continue  # fakeredis closes the connection over a key of another type
        place = await new_place(answers)
        await answers.valkey.call(name, place.key, *values)
        claim = await answers.store.claim(place, "t", SHORT, anew=anew)
        assert (claim.entry, claim.token) == (None, "t"), (name, values)
        assert await kept(answers, place, "t", b"{}")
        assert (await answers.store.claim(place, "u", SHORT)).entry is not None
        assert await answers.valkey.call("PTTL", place.key) > 0


async def test_of_two_who_find_the_same_damage_one_asks(make_replica: MakeReplica) -> None:
    answers = await make_replica()
    store, place = answers.store, await new_place(answers)
    await answers.valkey.call("SET", place.key, "garbage")
    first, second = [store.ask(place, token, SHORT) for token in ("first", "second")]
    assert (await store.claimed(place, "first", SHORT, first)).token == "first"
    assert (await store.claimed(place, "second", SHORT, second)).token == "first"
