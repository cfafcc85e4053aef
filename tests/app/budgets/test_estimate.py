from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from app.budgets.estimate import Month, levers, main, months
from app.models import Models, default_document
from app.prices import PICO_PER_USD

MONTH = Month(
    users=1_000,
    requests_per_user=100,
    prompt_tokens=1_000,
    output_tokens=400,
    repeated_percent=50,
    hit_percent=30,
    batch_percent=50,
)
BASE = ["--users", "1000", "--requests-per-user", "100", "--prompt-tokens", "1000", "--output-tokens", "400"]
MODELS = Models(default_document())
TERRA, LUNA = (MODELS.resolve(name, "text").tariff for name in ("gpt-6.1-terra", "gpt-6-luna"))


def test_a_month_costs_what_its_tokens_cost_by_the_price_file() -> None:
    # 100,000 requests of 1,000 tokens at $1 and 400 at $5 a million
    assert months(MONTH, TERRA) == {
        "plain": 300 * PICO_PER_USD,
        "cached": 210 * PICO_PER_USD,
        "batched": 150 * PICO_PER_USD,
        "both": 157_500_000_000_000,
    }


def test_each_lever_of_the_guide_says_what_it_saves_alone() -> None:
    saved = [pico and pico / PICO_PER_USD for _, pico in levers(MONTH, TERRA, LUNA)]
    # half the output, half the prompt at $0.05, 30 % not asked, all in batches, all by luna
    assert saved == [100, 47.5, 90, 150, 270]


def test_the_command_shows_every_text_model_cheapest_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(BASE) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^(gpt-\S+)\s+\$([\d,.]+)", out, re.MULTILINE)
    amounts = [float(amount.replace(",", "")) for _, amount in rows]
    assert {name for name, _ in rows} >= {"gpt-6-luna", "gpt-6.1-terra", "gpt-6.2-sol"}
    assert amounts == sorted(amounts)
    assert "an estimate" in out
    assert "text-embedding" not in out


def test_a_prompt_is_counted_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("word " * 800)
    arguments = [*BASE[:4], "--prompt-file", str(prompt), *BASE[6:]]
    assert main(arguments) == 0
    assert "1,000 prompt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([*BASE[:1], "0", *BASE[2:]], "'0' is not a whole number from 1"),
        ([*BASE[:1], "-5", *BASE[2:]], "--users"),
        ([*BASE[:1], "many", *BASE[2:]], "'many' is not a whole number"),
        ([*BASE[:1], "9" * 40, *BASE[2:]], "is not a whole number from 1 to 10000000000"),
        ([*BASE, "--hit-percent", "101"], "from 0 to 100"),
        ([*BASE, "--prompt-file", "x"], "give either --prompt-tokens or --prompt-file"),
        ([*BASE[:4], *BASE[6:]], "give either --prompt-tokens or --prompt-file"),
        ([*BASE[:4], "--prompt-file", "/nowhere/at/all", *BASE[6:]], "No such file"),
        ([], "required"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_fix(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_makefile_passes_every_number_on_and_says_which_it_takes() -> None:
    root = Path(__file__).resolve().parents[3]
    make = ["make", "-n", "-o", ".venv/.installed", "estimate"]
    given = ["USERS=10", "REQUESTS_PER_USER=20", "PROMPT_TOKENS=30", "OUTPUT_TOKENS=40"]
    shown = subprocess.run([*make, *given], cwd=root, capture_output=True, text=True).stdout
    assert "--users '10' --requests-per-user '20' --output-tokens '40' --prompt-tokens '30'" in shown
    refused = subprocess.run([*make, *given[1:]], cwd=root, capture_output=True, text=True)
    assert "make estimate USERS=1000" in refused.stderr
