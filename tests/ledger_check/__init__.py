"""The check of the ledger's protocol on random histories; `python -m tests.ledger_check --help`."""

from tests.ledger_check.invariants import BrokenError
from tests.ledger_check.mutants import MUTANTS, mutant
from tests.ledger_check.run import check, run

__all__ = ["MUTANTS", "BrokenError", "check", "mutant", "run"]
