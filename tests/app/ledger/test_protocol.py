from __future__ import annotations

import pytest

from tests import ledger_check

TRACES = 10_000
MUTANT_TRACES = 3_000


def test_the_protocol_holds_over_ten_thousand_histories_of_loss_crashes_pauses_and_wrong_clocks() -> None:
    assert ledger_check.check(TRACES) == TRACES


@pytest.mark.parametrize("name", sorted(ledger_check.MUTANTS))
def test_the_check_catches_a_protocol_that_is_wrong(name: str) -> None:
    with ledger_check.mutant(name), pytest.raises(ledger_check.BrokenError, match=r"seed \d+: I\d"):
        ledger_check.check(MUTANT_TRACES)
    ledger_check.check(10)  # and the right one is back
