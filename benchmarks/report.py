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
    nothing = result.summary.get("prodkit", {}).get("nothing_percent")
    if nothing is not None:
        shown = _shown(nothing.median, (nothing.least, nothing.most), 1)
        lines += [f"By the same measure as of the ledger and the limits, taking out nothing at all is {shown} %.", ""]
    lines += ["Each target, median (least-most) over the rounds:", ""]
    names = [name for name in TITLES if name in result.summary]
    rows = ([figure.title, *(_cell(result.summary[name], figure) for name in names)] for figure in FIGURES)
    lines += _table(("", *(TITLES[name] for name in names)), rows)
    lines += [f"- Skipped: {TITLES[name]}: {why}" for name, why in result.skipped.items()]
    lines += [f"- {TITLES[name]}: {version}" for name, version in result.versions.items() if version != "-"]
    lines.append(f"- Machine: {', '.join(f'{name} {value}' for name, value in result.machine.items())}")
    if result.paces:
        shown = ", ".join(f"{pace['median']:.0f} ({pace['least']:.0f})" for pace in result.paces)
        lines.append(f"- Fixed work on the gateway's CPU before each round, CPU µs, median (least): {shown}")
    lines.append(f"- Run: {', '.join(f'{name} {value}' for name, value in result.settings.items())}")
    return "\n".join(lines) + "\n"


def _promise(goal: Goal) -> tuple[str, str, str, str]:
    sign = "≥" if goal.at_least else "≤"
    unit = f" {goal.unit}" if goal.unit else ""
    value = "-" if goal.value is None else _shown(goal.value, goal.between, goal.digits) + unit
    value = "more than 1 % failed" if goal.value == inf else value
    return goal.text, f"{sign} {goal.bound:,g}{unit}", value, _VERDICTS[goal.met]


def _cell(measured: Mapping[str, Spread], figure: Figure) -> str:
    found = measured.get(figure.name)
    if found is None:
        return "-"
    return _shown(found.median, (found.least, found.most), figure.digits)


def _shown(value: float, between: tuple[float, float] | None, digits: int) -> str:
    least, most = (f"{bound:,.{digits}f}" for bound in between or (value, value))
    return f"{value:,.{digits}f}" + (f" ({least}-{most})" if least != most else "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names), *body, ""]
