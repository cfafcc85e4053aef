"""The file of one run: what was measured, on what, with what; and the newest one of the repository."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._figures import FIGURES, OTHERS
from benchmarks._statistics import Spread

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"
_NAMES = {figure.name for figure in (*FIGURES, *OTHERS)}


class BadResultError(ValueError):
    """A file is no result of this benchmark; the text says which and why."""


@dataclass(frozen=True)
class Result:
    """One run."""

    date: str
    """The day, `2026-11-22`."""
    machine: Mapping[str, str | int | float | bool]
    versions: Mapping[str, str]
    """By target."""
    settings: Mapping[str, str | int | float]
    summary: Mapping[str, Mapping[str, Spread]]
    """Median and range by target and figure."""
    rounds: list[Mapping[str, Mapping[str, float | None]]] = field(default_factory=list)
    paces: list[Mapping[str, float]] = field(default_factory=list)
    """Before each round, CPU microseconds of a fixed piece of work: `median`, and `least`, which nobody disturbed."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Why, by target."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """As it is kept; figures of rounds to six digits."""
        return json.dumps(_rounded(asdict(self)), indent=1) + "\n"


def save(result: Result) -> Path:
    """Write the result of its day, over an earlier one of the same day."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{result.date}.json"
    path.write_text(result.to_json())
    return path


def newest(folder: Path = FOLDER) -> Result | None:
    """The result of the latest day, None when there is none; raises BadResultError."""
    files = sorted(folder.glob("20*.json"))
    return load(files[-1]) if files else None


def load(path: Path) -> Result:
    """One result; raises BadResultError."""
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadResultError(f"{path.name}: {type(error).__name__}: {error}") from error


def parse(document: Mapping[str, Any]) -> Result:
    """A result out of its JSON; raises ValueError, KeyError or TypeError for what is not one."""
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']} is not {SCHEMA}")
    summary = {
        target: {name: Spread(**values) for name, values in figures.items()}
        for target, figures in document["summary"].items()
    }
    unknown = {name for figures in summary.values() for name in figures} - _NAMES
    if unknown:
        raise ValueError(f"unknown figures: {', '.join(sorted(unknown))}")
    return Result(**{**document, "summary": summary})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
