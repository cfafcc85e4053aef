import re
from datetime import date
from decimal import Decimal

import pytest

from components._prices import CHECKED, FILE, HOURS_A_MONTH, PRICES, REGION, usd


@pytest.mark.parametrize("name", PRICES)
def test_a_price_has_an_amount_a_unit_and_a_dated_source(name: str) -> None:
    price = PRICES[name]
    assert isinstance(price.usd, Decimal)
    assert price.usd > 0
    assert price.unit
    assert re.search(r"2026(-\d\d)?(-\d\d)?", price.source)


def test_the_file_says_when_and_where_it_holds() -> None:
    assert isinstance(CHECKED, date)
    assert (REGION, HOURS_A_MONTH) == ("us-east-1", 730)
    assert FILE.name == "prices.toml"


def test_what_has_no_price_is_not_free() -> None:
    with pytest.raises(KeyError):
        usd("teleporter")
