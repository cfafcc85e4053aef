from __future__ import annotations

import copy
import datetime
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.models import Models, default_document
from app.prices import (
    BATCH,
    CLASSES,
    PRICES,
    Price,
    PriceFileError,
    Prices,
    Rates,
    Usage,
    default_prices,
    is_regional,
    pico_per_token,
    usd,
)

FILE = yaml.safe_load(PRICES.read_text())
PICO_PER_USD = 10**12
TODAY = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC).timestamp()
DAY = 86_400.0
TOKENS = st.integers(0, 2_000_000)
PICO = st.integers(0, 10**9)
LONG = st.none() | st.builds(Rates, PICO, PICO, PICO, PICO)
PRICE = st.builds(Price, PICO, PICO, PICO, PICO, LONG, st.just(272_000), st.sampled_from([100, 110]))


def prices(document: object = FILE, at: float = TODAY, *, regional: bool = False) -> Prices:
    return Prices(document, regional=regional, clock=lambda: at)


def refusal(call: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def test_every_model_that_is_served_has_its_prices_standard_and_batch() -> None:
    priced = default_prices()
    for name in default_document()["models"]:
        tariff = priced.tariff(name)
        assert tariff is not None
        assert tariff.price(BATCH, TODAY).input * 2 == tariff.price(at=TODAY).input
    assert set(priced.models) == set(default_document()["models"]), "a row that no model uses is nobody's to check"


def test_every_row_has_a_source_that_says_when_it_was_read() -> None:
    assert {row["source"] for row in FILE["rows"]} | {FILE["regional"]["source"]} == set(FILE["sources"])
    assert all("checked 2026-" in text for text in FILE["sources"].values())


@given(PRICE, TOKENS, TOKENS, TOKENS, TOKENS)
def test_a_cost_is_exact_to_the_pico_dollar(price: Price, plain: int, cached: int, written: int, output: int) -> None:
    usage = Usage(plain + cached + written, cached, written, output)
    rates = price.long if price.long and usage.input_tokens > 272_000 else price
    exact = plain * rates.input + cached * rates.cached_input + written * rates.cache_write + output * rates.output
    assert 0 <= price.cost_pico(usage) - Fraction(exact * price.percent, 100) < 1


ANY_COUNT = st.integers(-10, 1_000)


@given(PRICE, st.builds(Usage, ANY_COUNT, ANY_COUNT, ANY_COUNT, ANY_COUNT))
def test_a_usage_that_contradicts_itself_costs_no_less_than_nothing(price: Price, usage: Usage) -> None:
    assert 0 <= price.cost_pico(usage) <= price.worst_pico(max(0, usage.input_tokens), max(0, usage.output_tokens))


@given(PRICE, TOKENS, TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)
def test_no_call_within_its_bounds_costs_more_than_the_worst_case(
    price: Price, plain: int, cached: int, written: int, output: int, more_input: int, more_output: int
) -> None:
    usage = Usage(plain + cached + written, cached, written, output)
    assert price.cost_pico(usage) <= price.worst_pico(usage.input_tokens + more_input, output + more_output)


def test_input_above_the_line_reprices_the_whole_request() -> None:
    tariff = prices().tariff("gpt-6-luna")
    assert tariff is not None
    at, above = (tariff.price().cost_pico(Usage(each, 0, 0, 1_000)) for each in (272_000, 272_001))
    assert at == 272_000 * 100_000 + 1_000 * 500_000
    assert above == 272_001 * 200_000 + 1_000 * 750_000


def test_the_batch_tier_has_rows_of_its_own() -> None:
    tariff = prices().tariff("text-embedding-3-large")
    assert tariff is not None
    assert tariff.price(BATCH).cost_pico(Usage(1_000_000, 0, 0, 0)) == 65 * PICO_PER_USD // 1_000


def test_a_regional_host_costs_ten_percent_more_for_models_of_this_year_alone() -> None:
    assert is_regional("https://eu.api.openai.com/v1")
    assert not is_regional("https://api.openai.com/v1")
    assert not is_regional("http://127.0.0.1:9/v1")
    usage = Usage(1_000, 0, 0, 1_000)
    for model, factor in (("gpt-6-luna", 110), ("text-embedding-3-small", 100)):
        plain, regional = prices().tariff(model), prices(regional=True).tariff(model)
        assert plain is not None
        assert regional is not None
        assert regional.price().cost_pico(usage) * 100 == plain.price().cost_pico(usage) * factor


def test_a_price_holds_from_its_first_day_until_the_next_one() -> None:
    document = copy.deepcopy(FILE)
    row = next(row for row in document["rows"] if row["model"] == "gpt-6-luna" and row["tier"] == "default")
    document["rows"].append({**row, "from": "2026-12-01", "input": "0.30"})
    first = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC).timestamp()
    clock = [TODAY]
    tariff = Prices(document, clock=lambda: clock[0]).tariff("gpt-6-luna")
    assert tariff is not None
    assert tariff.price().input == tariff.price(at=first - 1).input == 100_000
    clock[0] = first
    assert tariff.price().input == 300_000
    assert tariff.price(at=TODAY).input == 100_000


def test_what_has_no_price_is_refused_with_the_fix_and_never_free() -> None:
    assert prices().tariff("gpt-7") is None
    tariff = prices().tariff("gpt-6-luna")
    assert tariff is not None
    error = refusal(lambda: tariff.price("flex"))
    assert (error.status, error.code) == (503, "price_missing")
    assert "'flex'" in error.message
    assert "app/prices.yaml" in error.message
    assert "gpt-6-luna" in refusal(lambda: tariff.price(at=0)).message


def test_a_price_file_that_has_ended_refuses_everything_and_names_the_fix() -> None:
    end = datetime.datetime.fromisoformat(FILE["valid_until"]).replace(tzinfo=datetime.UTC).timestamp() + DAY
    tariff = prices(at=end).tariff("gpt-6-luna")
    assert tariff is not None
    assert tariff.price(at=end - 1).input == 100_000
    assert "`valid_until` in app/prices.yaml" in refusal(tariff.price).message


def test_a_call_that_was_served_without_a_price_is_a_fact_at_the_dearest_rate() -> None:
    tariff = prices().tariff("gpt-6-luna")
    assert tariff is not None
    assert tariff.served("default", 10) == (tariff.price(), True)
    for tier, tokens in (("flex", 10), ("priority", 300_000)):
        price, known = tariff.served(tier, tokens)
        assert not known
        for name in CLASSES:
            assert getattr(price, name) == getattr(tariff.price("priority"), name)
            assert getattr(price.long, name) == max(getattr(price, name), getattr(tariff.price().long, name))
    ended = prices(at=TODAY + 1_000 * DAY).tariff("gpt-6-luna")
    assert ended is not None
    assert ended.served("default", 10)[0].output > 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": ""}, "version: is not a text"),
        ({"valid_until": datetime.date(2026, 11, 22)}, "valid_until: datetime.date(2026, 11, 22) is not a date"),
        ({"valid_until": "2026-13-01"}, "valid_until: '2026-13-01' is not a date"),
        ({"long_context_above_input_tokens": -1}, "long_context_above_input_tokens: -1 is not"),
        ({"regional": {}}, "regional.models_since: None is not a date"),
        ({"more": 1}, "more: is unknown"),
        ({"rows": []}, "sources and rows"),
        ({"rows": [5]}, "rows[0]: is not an object"),
        ({"rows": [{"model": "a"}]}, "rows[0].tier: is missing"),
        ({"rows": [FILE["rows"][0] | {"tier": "cheap"}]}, "rows[0].tier: 'cheap' is not one of default, batch"),
        ({"rows": [FILE["rows"][0] | {"input": 0.1}]}, "rows[0].input: 0.1 is not USD per million"),
        ({"rows": [FILE["rows"][0] | {"input": "0.0000001"}]}, "rows[0].input: '0.0000001' is not USD"),
        ({"rows": [FILE["rows"][0] | {"input": "-1"}]}, "rows[0].input: '-1' is not USD"),
        ({"rows": [FILE["rows"][0] | {"source": "hearsay"}]}, "rows[0].source: 'hearsay' is not one of"),
        ({"rows": [FILE["rows"][0] | {"images": "1"}]}, "rows[0].images: is unknown"),
        ({"rows": FILE["rows"][:1] * 2}, "rows[1]: gpt-6-luna default short 2026-09-03 stands there twice"),
        ({"rows": FILE["rows"][1:2]}, "gpt-6-luna default 2026-09-03: has a long row and no short one"),
    ],
)
def test_a_fault_of_the_file_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(PriceFileError) as caught:
        prices(FILE | change)
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_anything_else_is_refused_and_never_a_crash(value: object) -> None:
    with pytest.raises(PriceFileError):
        prices(value)
    for name in FILE:
        with pytest.raises(PriceFileError):
            prices(FILE | {name: [value]})


@given(st.integers(0, 999_999), st.integers(0, 999_999))
def test_a_price_is_read_exactly(whole: int, millionths: int) -> None:
    assert pico_per_token(f"{whole}.{millionths:06d}") == whole * 1_000_000 + millionths


@pytest.mark.parametrize("text", ["0.0000001", "-1"])
def test_a_price_finer_than_a_pico_dollar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pico-dollars"):
        pico_per_token(text)


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "$0.00"),
        (PICO_PER_USD, "$1.00"),
        (1_234_567 * PICO_PER_USD // 1_000, "$1,234.57"),
        (123, "$0.00000000012"),
        (-69 * PICO_PER_USD // 100, "-$0.69"),
    ],
)
def test_dollars_are_rounded_for_people_alone(pico: int, text: str) -> None:
    assert usd(pico) == text


def test_a_million_tokens_cost_the_price_on_the_page() -> None:
    models = Models(default_document())
    luna = models.resolve("fast", "text").price
    assert luna.cost_pico(Usage(100_000, 0, 0, 0)) * 10 == PICO_PER_USD // 10
    assert luna.cost_pico(Usage(100_000, 100_000, 0, 0)) * 10 == PICO_PER_USD // 100
    assert luna.cost_pico(Usage(100_000, 0, 100_000, 0)) * 10 == PICO_PER_USD // 8
    assert luna.cost_pico(Usage(0, 0, 0, 1_000_000)) == PICO_PER_USD // 2
    assert luna.cost_pico(Usage(300_000, 0, 0, 100_000)) == (2 * 30_000 + 75_000) * PICO_PER_USD // 1_000_000
    assert models.resolve("embed", "embedding").price.cost_pico(Usage(1_000_000, 0, 0, 0)) == PICO_PER_USD // 50
    assert models.resolve("moderate", "moderation").price.cost_pico(Usage(1_000_000, 0, 0, 0)) == 0
