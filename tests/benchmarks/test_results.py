"""The files of results, and the page that is written from the newest."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, results
from benchmarks._figures import FIGURES, goals
from benchmarks._statistics import Spread
from benchmarks.results import BadResultError, Result

RESULT = Result(
    date="2026-11-22",
    machine={"processor": "A 1", "cpus": 2, "pinned": True},
    versions={"direct": "-", "prodkit": "Python 3.11.7", "nginx": "1.22.1"},
    settings={"rounds": 3, "seconds": 600},
    summary={
        "direct": {"requests_per_second": Spread(50_000.4, 49_000, 51_000)},
        "prodkit": {
            "requests_per_second": Spread(3_100, 3_000, 3_200),
            "added_p50_ms": Spread(0.41, 0.4, 0.43),
            "ready_seconds": Spread(1.25, 1.25, 1.25),
            "ledger_percent": Spread(8.04, 7.0, 9.1),
            "nothing_percent": Spread(0.13, -0.9, 1.2),
        },
    },
    rounds=[{"prodkit": {"p50_ms": 0.1234567891, "p99_ms": None}}],
    paces=[{"median": 251.4, "least": 250.1}, {"median": 402.0, "least": 250.4}],
    skipped={"portkey": "node and npm are not installed"},
)


def changed(**more: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(RESULT.to_json())
    return {**document, **more}


def test_a_result_is_read_back_as_it_was_written_to_six_digits(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-22.json"
    path.write_text(RESULT.to_json())
    read = results.load(path)
    assert read.summary["prodkit"] == RESULT.summary["prodkit"]
    assert read.rounds == [{"prodkit": {"p50_ms": 0.123457, "p99_ms": None}}]
    assert read.to_json() == RESULT.to_json()


def test_the_newest_result_is_the_one_of_the_latest_day(tmp_path: Path) -> None:
    assert results.newest(tmp_path) is None
    for day in ("2026-11-22", "2026-12-01", "2026-09-30"):
        (tmp_path / f"{day}.json").write_text(json.dumps(changed(date=day)))
    found = results.newest(tmp_path)
    assert found is not None
    assert found.date == "2026-12-01"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not json", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'schema'"),
        (json.dumps(changed(schema=2)), "schema 2 is not 1"),
        (json.dumps(changed(summary={"prodkit": {"speed": {"median": 1, "least": 1, "most": 1}}})), "figures: speed"),
        (json.dumps(changed(extra=1)), "extra"),
    ],
)
def test_what_is_no_result_is_refused_by_name_and_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "2026-01-01.json"
    path.write_text(text)
    with pytest.raises(BadResultError, match=why) as refused:
        results.load(path)
    assert str(refused.value).startswith("2026-01-01.json: ")


def test_the_report_shows_promises_figures_ranges_and_what_was_skipped() -> None:
    page = report.render(RESULT)
    assert "| requests a second on one core, c=32 | ≥ 3,000 | 3,100 | met |" in page
    assert "| added latency, median, one request each 20 ms | ≤ 0.4 ms | 0.41 ms | **missed** |" in page
    assert "| CPU time that the ledger adds to a request | ≤ 10 % | 8.0 (7.0-9.1) % | met |" in page
    assert "taking out nothing at all is 0.1 (-0.9-1.2) %." in page
    assert "| CPU time a request | ≤ 330 µs | - | not measured |" in page
    assert "| requests/s, c=32 | 50,000 (49,000-51,000) | 3,100 (3,000-3,200) |" in page
    assert "| s to ready | - | 1.25 |" in page
    assert "- Skipped: Portkey: node and npm are not installed" in page
    assert "- floor in C: nginx reverse proxy, no policy: 1.22.1" in page
    assert "processor A 1" in page
    assert "before each round, CPU µs, median (least): 251 (250), 402 (250)" in page
    assert page.count("\n| ") == 2 + len(FIGURES) + len(goals(RESULT.summary))


def test_the_part_between_the_marks_is_replaced_and_nothing_else() -> None:
    page = f"# A\n\n{report.BEGIN}\nold\n{report.END}\n\n## B\n"
    once = report.inserted(page, "new\n")
    assert once == f"# A\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\n## B\n"
    assert report.inserted(once, "new\n") == once


@pytest.mark.parametrize("page", ["", report.BEGIN, report.END, f"{report.END}{report.BEGIN}"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="the page needs the lines"):
        report.inserted(page, "new")


def test_the_page_shows_the_newest_kept_result() -> None:
    kept = results.newest()
    assert kept is not None
    page = report.PAGE.read_text()
    assert report.inserted(page, report.render(kept)) == page
