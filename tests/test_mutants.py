"""The list of mutants fits the code, and a mutant that no test notices fails the run."""

from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.harm)
def test_every_mutant_still_changes_one_line_of_code_that_compiles(mutant: Mutant) -> None:
    whole = (ROOT / mutant.file).read_text()
    broken = mutant.applied(whole)
    compile(broken, mutant.file, "exec")
    changed = [new for old, new in zip(whole.splitlines(), broken.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    assert (ROOT / mutant.tests).is_file()


def test_there_are_twenty_four_and_no_two_are_the_same() -> None:
    assert len(MUTANTS) == 24
    assert len({(mutant.file, mutant.old) for mutant in MUTANTS}) == len({mutant.harm for mutant in MUTANTS}) == 24


@pytest.mark.parametrize("text", ["", "a = 1\na = 1\n"])
def test_a_mutant_whose_line_is_gone_or_no_longer_unique_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="mend the mutant 'it breaks'"):
        Mutant("it breaks", "one.py", "a = 1", "a = 2", "test_one.py").applied(text)


def tree(path: Path, test: str) -> Path:
    (path / "one.py").write_text("a = 1\n")
    (path / "test_one.py").write_text(f"from one import a\n\ndef test_it() -> None:\n    assert {test}\n")
    return path


@pytest.mark.process
@pytest.mark.parametrize(("test", "fate"), [("a == 1", "caught"), ("a > 0", "survived"), ("(", "test_one.py could")])
def test_a_mutant_is_caught_by_a_failed_test_only_and_its_tree_is_whole_again(
    tmp_path: Path, test: str, fate: str
) -> None:
    copy = tree(tmp_path, test)
    assert mutants.fate(Mutant("it breaks", "one.py", "a = 1", "a = 2", "test_one.py"), copy).startswith(fate)
    assert (copy / "one.py").read_text() == "a = 1\n"
