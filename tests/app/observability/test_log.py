from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.observability import log

OPENAI_KEY = "sk-proj-" + secrets.token_urlsafe(48)
PRODKIT_KEY = f"prodkit_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
TOKEN = "cache/?Action=connect&X-Amz-Security-Token=IQoJb3JpZ2luX2Vj%2Fabc&X-Amz-Signature=" + secrets.token_hex(32)
ACCESS_KEY = "ASIA" + "Q" * 16


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was after the test."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield root
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (f"Incorrect API key provided: {OPENAI_KEY}.", OPENAI_KEY),
        (f"line one\n{OPENAI_KEY}", OPENAI_KEY),
        (f"key_{OPENAI_KEY}", OPENAI_KEY),
        (f"Authorization: Bearer {PRODKIT_KEY}", PRODKIT_KEY),
        ("authorization: bearer abcdefghijklmnop", "abcdefghijklmnop"),
        (TOKEN, TOKEN.rpartition("=")[2]),
        (TOKEN, "IQoJb3JpZ2luX2Vj"),
        (f"AccessKeyId={ACCESS_KEY}", ACCESS_KEY),
    ],
    # The texts are random: as names they would differ from run to run, and put keys on the screen.
    ids=["sentence", "second line", "suffix", "header", "lower case", "signature", "session token", "access key"],
)
def test_nothing_that_looks_like_a_key_is_written(text: str, gone: str) -> None:
    for fields in ({"a": text}, {"a": {text: [text]}}, {text: 1}, {"a": (text,)}, {"a": ValueError(text)}):
        line = log.encode(fields)
        assert gone not in line
        assert log.REDACTED in line


@pytest.mark.parametrize("text", ["arn:aws:ecs:us-east-1:123456789012:task-definition/prodkit-dev-web:17", "sk-short"])
def test_what_only_resembles_a_key_stays(text: str) -> None:
    assert log.redact(text) == text


PIECES = [
    OPENAI_KEY,
    PRODKIT_KEY,
    TOKEN,
    ACCESS_KEY,
    "BeArEr ",
    "bearer",
    "sk-",
    "prodkit_",
    "AKIA",
    "a",
    " ",
    "\n",
    "x" * 20,
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=6).map("".join))
def test_looking_for_marks_first_never_spares_a_key(text: str) -> None:
    assert log.redact(text) == log._KEYS.sub(log.REDACTED, text)


def test_a_key_cut_by_the_length_bound_is_still_gone() -> None:
    line = log.encode({"a": "x " * (log.MAX_TEXT // 2 - 5) + OPENAI_KEY})
    assert OPENAI_KEY[:12] not in line


def test_a_request_is_one_line_with_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"request_id": "req_1", "tenant": "acme", "status": 200, "cost_usd": 0.000125, "cut": False}
    log.request_line(log.request_fields() | fields)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    line = json.loads(out)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "req_1",
        "tenant": "acme",
        "status": 200,
        "cost_usd": 0.000125,
        "cut": False,
    }


def test_a_record_with_an_exception_is_one_line_without_the_key(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup("info")
    try:
        raise ValueError(f"refused {OPENAI_KEY}")
    except ValueError:
        logging.getLogger("app.test").exception("call failed for %s", PRODKIT_KEY, extra={"fields": {"tenant": "acme"}})
    out = capsys.readouterr().out
    line = json.loads(out)
    assert out.count("\n") == 1
    assert (line["level"], line["logger"], line["tenant"]) == ("error", "app.test", "acme")
    assert "ValueError: refused [redacted]" in line["exception"]
    assert line["message"] == "call failed for [redacted]"


def test_libraries_that_print_headers_are_quiet_even_at_debug(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup("debug")
    logging.getLogger("botocore.endpoint").debug("headers")
    logging.getLogger("app.test").debug("ours")
    assert json.loads(capsys.readouterr().out)["message"] == "ours"


def test_a_closed_stdout_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    log.request_line(log.request_fields())


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.text(st.characters(codec=None), max_size=8), JSON_LIKE, max_size=4))
def test_any_fields_become_one_line_of_json(fields: dict[str, object]) -> None:
    line = log.encode(fields)
    assert "\n" not in line
    assert isinstance(json.loads(line), dict)


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=6).map("".join))
def test_a_line_without_a_mark_is_the_line_of_the_careful_way(text: str) -> None:
    fields = {"a": text, "b": [1, 2.5, None, True], "c": {"d": text}, "e": None}
    cleaned = {name: log._clean(value, log.MAX_DEPTH) for name, value in fields.items() if value is not None}
    assert json.loads(log.encode(fields)) == json.loads(json.dumps(cleaned))


def test_lines_of_a_batch_leave_together_in_order_and_none_is_left_behind(
    capsys: pytest.CaptureFixture[str], root_logger: logging.Logger
) -> None:
    log.setup("info")

    async def written() -> None:
        with log.in_batches():
            log.write_line("1")
            logging.getLogger("app.test").info("two")
            assert capsys.readouterr().out == ""
            await asyncio.to_thread(log.write_line, "of a thread, at once")
            assert "of a thread, at once" in capsys.readouterr().out.splitlines()
            await asyncio.sleep(10 * log.BATCH_SECONDS)
            log.write_line("3")
        log.write_line("4")

    asyncio.run(written())
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["3", "4"]


def test_a_batch_ends_with_its_block_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken() -> None:
        with log.in_batches():
            log.write_line("last words")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(broken())
    assert capsys.readouterr().out == "last words\n"
