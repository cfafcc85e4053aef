from __future__ import annotations

import orjson
import pytest

from app.errors import BILLING_CODES, KINDS, ApiError, Domain, upstream_domain


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_error_has_openais_shape_and_an_error_status(code: str) -> None:
    error = ApiError(code, "Do this instead.", param="input")
    assert orjson.loads(error.body()) == {
        "error": {"message": "Do this instead.", "type": KINDS[code].type, "param": "input", "code": code}
    }
    assert 400 <= error.status <= 599


def test_a_code_that_is_not_in_the_table_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        ApiError("made_up", "never")


def test_shed_and_provider_errors_never_count_as_ours() -> None:
    ours = {code for code, kind in KINDS.items() if kind.domain is Domain.US}
    assert ours == {"internal_error", "service_unavailable"}


@pytest.mark.parametrize(
    ("status", "domain"),
    [
        (400, Domain.CALLER),
        (401, Domain.UPSTREAM),
        (403, Domain.UPSTREAM),
        (404, Domain.CALLER),
        (422, Domain.CALLER),
        (429, Domain.UPSTREAM),
        (500, Domain.UPSTREAM),
        (503, Domain.UPSTREAM),
    ],
)
def test_an_error_of_openai_is_blamed_on_who_can_mend_it(status: int, domain: Domain) -> None:
    assert upstream_domain(status) is domain


def test_the_codes_that_only_a_person_ends_are_known() -> None:
    assert "insufficient_quota" in BILLING_CODES
    assert "rate_limit_exceeded" not in BILLING_CODES
