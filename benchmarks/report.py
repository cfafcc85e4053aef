"""A result as the part of docs/performance.md between its two marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path

from benchmarks._figures import FIGURES, Figure, Goal, goals
from benchmarks._statistics import Spread
from benchmarks.results import Result
from benchmarks.targets import TITLES

PAGE = Path(__file__).resolve().parents[1] / "docs/performance.md"
BEGIN = "<!-- begin: written by `make bench` -->"
END = "<!-- end -->"
_VERDICTS = {True: "met", False: "**missed**", None: "not measured"}


def write(result: Result, page: Path = PAGE) -> None:
    """Put the result into the page; raises ValueError when the page has lost its marks."""
    page.write_text(inserted(page.read_text(), render(result)))


def inserted(text: str, part: str) -> str:
    """`text` with `part` between its marks; raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def render(result: Result) -> str:
    """The promises, then every target, then what was measured on what."""
    lines = [f"Measured on {result.date}, medians of {result.settings['rounds']} rounds.", ""]
    lines += _table(("promise", "target", "measured", ""), (_promise(goal) for goal in goals(result.summary)))
    lines += ["Each target, median (least-most) over the rounds:", ""]
    names = [name for name in TITLES if name in result.summary]
    rows = ([figure.title, *(_cell(result.summary[name], figure) for name in names)] for figure in FIGURES)
    lines += _table(("", *(TITLES[name] for name in names)), rows)
    lines += [f"- Skipped: {TITLES[name]}: {why}" for name, why in result.skipped.items()]
    lines += [f"- {TITLES[name]}: {version}" for name, version in result.versions.items() if version != "-"]
    lines.append(f"- Machine: {', '.join(f'{name} {value}' for name, value in result.machine.items())}")
    lines.append(f"- Run: {', '.join(f'{name} {value}' for name, value in result.settings.items())}")
    return "\n".join(lines) + "\n"


def _promise(goal: Goal) -> tuple[str, str, str, str]:
    sign = "≥" if goal.at_least else "≤"
    unit = f" {goal.unit}" if goal.unit else ""
    value = "-" if goal.value is None else f"{goal.value:,.{goal.digits}f}{unit}"
    value = "more than 1 % failed" if goal.value == inf else value
    return goal.text, f"{sign} {goal.bound:,g}{unit}", value, _VERDICTS[goal.met]


def _cell(measured: Mapping[str, Spread], figure: Figure) -> str:
    found = measured.get(figure.name)
    if found is None:
        return "-"
    shown = [f"{value:,.{figure.digits}f}" for value in (found.median, found.least, found.most)]
    return f"{shown[0]} ({shown[1]}-{shown[2]})" if shown[1] != shown[2] else shown[0]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names), *body, ""]
