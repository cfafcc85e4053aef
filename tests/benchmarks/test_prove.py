"""What `make prove` says is what was measured: a figure that does not hold fails the command."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest

from benchmarks import prove
from benchmarks.prove import Figure
from tests.prove.__main__ import main


@pytest.mark.parametrize("name", prove.names())
def test_every_claim_says_what_it_promises_and_can_be_measured(name: str) -> None:
    claim = import_module(f"benchmarks.prove.{name}")
    assert claim.__doc__
    assert callable(claim.measure)


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_a_figure_that_does_not_hold_fails_the_command(monkeypatch: pytest.MonkeyPatch, holds: bool, code: int) -> None:
    async def measured(_claim: SimpleNamespace) -> list[Figure]:
        return [Figure("answers", "3", "all", holds)]

    said: list[str] = []
    monkeypatch.setattr(prove, "_measure", measured)
    assert prove.prove(["merging"], said.append) == code
    assert said[1] == f"  {'ok  ' if holds else 'FAIL'}  answers: 3 (promised: all)"


def test_an_unknown_claim_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["everything-is-fine"])
    assert "merging" in capsys.readouterr().err
