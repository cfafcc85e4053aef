"""The documentation names things that exist."""

import re
from pathlib import Path

import pytest

from tests import reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    for line in (ROOT / "docs/guide.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| the guide says")
]


def _named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_line_that_works_points_to_code_and_a_test(row: list[str]) -> None:
    _, status, _, code, test, *_ = [*row, "", ""]
    assert status in ("works", "partly", "not yet")
    if status == "not yet":
        return
    assert _named(code)
    for path in _named(code):
        assert (ROOT / path).is_file(), path
    (promise,) = _named(test)
    file, name = promise.split("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), promise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / file).is_file(), file
        assert not name or re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_command_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )(?:\w+=\S+ )*make ([a-z][\w-]*)", page.read_text(), re.MULTILINE))
    assert named <= targets


def test_a_target_of_the_makefile_has_three_lines_at_most() -> None:
    recipes = re.findall(r"^[.$\w][^=\n]*:[^=\n]*\n((?:\t.*\n?)*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipes
    assert max(recipe.count("\n") for recipe in recipes) <= 3


def test_every_header_of_the_app_is_in_the_reference() -> None:
    code = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    assert [
        name
        for name in set(re.findall(r'"(x-[a-z-]+[a-z])"', code))
        if name not in reference.render() and not name.startswith(("x-ratelimit-", "x-amzn-"))
    ] == []


def test_the_reference_says_what_the_code_says() -> None:
    assert reference.PAGE.read_text() == reference.render(), "run `make reference`"
