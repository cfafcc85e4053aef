"""What a month will cost at OpenAI, before it is spent: by model, cached or not, at once or in batches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import ApiError
from app.models import Models, default_document
from app.pipeline.estimate import text_tokens
from app.prices import BATCH, DEFAULT, Price, Tariff, Usage, default_prices, usd

MOST = 10_000_000_000  # users, requests or tokens
MOST_TOKENS = 10_000_000  # of one request
CACHE_HITS = 30  # percent of requests, in the scenario that has some
DEFERRED = 30  # percent of requests that may wait


@dataclass(frozen=True, slots=True)
class Month:
    """What is asked in a month."""

    users: int
    requests_per_user: int
    prompt_tokens: int
    output_tokens: int
    repeated_percent: int
    """Of the prompt: the part that every request begins with and OpenAI's prompt cache serves."""
    hit_percent: int
    """Of requests: the answer is kept here already, and OpenAI is not asked."""
    batch_percent: int
    """Of the requests that ask OpenAI: they may wait for a batch."""

    @property
    def requests(self) -> int:
        """Of the whole month."""
        return self.users * self.requests_per_user

    def usage(self, *, repeated: bool = False, output_percent: int = 100) -> Usage:
        """Of one request."""
        cached = self.prompt_tokens * self.repeated_percent // 100 if repeated else 0
        return Usage(self.prompt_tokens, cached, 0, self.output_tokens * output_percent // 100)


def months(month: Month, tariff: Tariff) -> dict[str, int | None]:
    """Pico-dollars of the month by scenario; None where the price file has no batch row for the model."""
    price = tariff.price(DEFAULT)
    asked = month.requests * (100 - month.hit_percent)
    batched = _batch(tariff)
    each = price.cost_pico(month.usage())
    half = batched.cost_pico(month.usage()) if batched else None
    wait = month.batch_percent
    mixed = None if half is None else asked * ((100 - wait) * each + wait * half) // 10_000
    return {
        "plain": month.requests * each,
        "cached": asked * each // 100,
        "batched": None if half is None else month.requests * half,
        "both": mixed,
    }


def levers(month: Month, tariff: Tariff, cheaper: Tariff | None) -> list[tuple[str, int | None]]:
    """What each lever of the guide saves alone, in pico-dollars a month; None where it has no price."""
    price = tariff.price(DEFAULT)
    plain = month.requests * price.cost_pico(month.usage())
    scenarios = months(month, tariff)

    def saved(cost: int | None) -> int | None:
        return None if cost is None else plain - cost

    moved = None if cheaper is None else month.requests * cheaper.price(DEFAULT).cost_pico(month.usage())
    return [
        ("fewer completion tokens: answers half as long", saved(_all(month, price, output_percent=50))),
        (f"static prompt first: {month.repeated_percent} % of it cached by OpenAI", saved(_all(month, price, True))),
        (f"a cache here: {month.hit_percent} % of requests are asked again", saved(scenarios["cached"])),
        ("everything that may wait in batches", saved(scenarios["batched"])),
        ("the cheaper model of the ladder", saved(moved)),
    ]


def report(month: Month, models: Models) -> str:
    """The whole answer."""
    prices = default_prices()
    names = [name for name in prices.models if _served(models, name)]
    rows: list[tuple[int, str]] = []
    for name in names:
        tariff = prices.tariff(name)
        assert tariff is not None
        costs = months(month, tariff)
        plain = costs["plain"]
        assert plain is not None
        shown = "".join(f"{'-' if cost is None else usd(cost):>16}" for cost in costs.values())
        rows.append((plain, f"{name:<18}{shown}"))
    chosen = models.resolve(models.default_model, "text")
    cheaper = models.budget.cheaper.get(chosen.name)
    lines = [
        f"{month.requests:,} requests a month of {month.users:,} users, {month.prompt_tokens:,} prompt and "
        f"{month.output_tokens:,} output tokens each; prices of {prices.version}, USD a month",
        "",
        f"{'model':<18}{'as it is':>16}{f'{month.hit_percent} % kept here':>16}{'all in batches':>16}"
        f"{f'both, {month.batch_percent} % wait':>16}",
        *(line for _, line in sorted(rows)),
        "",
        f"What each lever saves alone with {chosen.name} (alias {models.default_model}):",
    ]
    for what, pico in levers(month, chosen.tariff, prices.tariff(cheaper) if cheaper else None):
        lines.append(f"  {'-' if pico is None else usd(pico):>14}  {what}")
    lines += [
        "",
        "Reasoning tokens are output tokens: count them in. No vocabulary of these models is part of this project, so",
        "tokens of a text are an estimate: its UTF-8 bytes divided by 4 (--prompt-file counts a file that way).",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 no price, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m app.budgets.estimate", description=__doc__)
    _number(parser, "--users", "people who ask", 1, MOST)
    _number(parser, "--requests-per-user", "requests of each in a month", 1, MOST)
    _number(parser, "--prompt-tokens", "tokens of a request; or --prompt-file", 1, MOST_TOKENS, needed=False)
    parser.add_argument("--prompt-file", metavar="FILE", help="a typical prompt: its tokens are estimated")
    _number(parser, "--output-tokens", "tokens of an answer, reasoning included", 0, MOST_TOKENS)
    for name, text, default in (
        ("--repeated-percent", "of the prompt that every request begins with", 50),
        ("--hit-percent", "of requests whose answer is kept here already", CACHE_HITS),
        ("--batch-percent", "of requests that may wait", DEFERRED),
    ):
        _number(parser, name, f"{text}; default {default}", 0, 100, default=default)
    given = parser.parse_args(arguments)
    if (given.prompt_tokens is None) == (given.prompt_file is None):
        parser.error("give either --prompt-tokens or --prompt-file (make: PROMPT_TOKENS= or PROMPT_FILE=)")
    prompt = given.prompt_tokens
    if given.prompt_file is not None:
        try:
            with open(given.prompt_file, "rb") as file:  # noqa: PTH123 - the path is a person's own
                prompt = max(1, text_tokens(len(file.read(4 * MOST_TOKENS))))
        except OSError as error:
            parser.error(f"--prompt-file {given.prompt_file}: {error.strerror}")
    month = Month(
        given.users,
        given.requests_per_user,
        prompt,
        given.output_tokens,
        given.repeated_percent,
        given.hit_percent,
        given.batch_percent,
    )
    try:
        sys.stdout.write(report(month, Models(default_document())) + "\n")
    except ApiError as error:
        sys.stderr.write(f"{parser.prog}: {error.message}\n")
        return 1
    return 0


def _all(month: Month, price: Price, repeated: bool = False, *, output_percent: int = 100) -> int:
    return month.requests * price.cost_pico(month.usage(repeated=repeated, output_percent=output_percent))


def _batch(tariff: Tariff) -> Price | None:
    try:
        return tariff.price(BATCH)
    except ApiError:
        return None


def _served(models: Models, name: str) -> bool:
    return name in models.names("text")


def _number(
    parser: argparse.ArgumentParser,
    name: str,
    text: str,
    least: int,
    most: int,
    *,
    needed: bool = True,
    default: int | None = None,
) -> None:
    def read(value: str) -> int:
        digits = value.replace(",", "").replace("_", "")
        if not digits.isascii() or not digits.isdigit() or not least <= int(digits[:15]) <= most:
            raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from {least} to {most}")
        return int(digits[:15])

    parser.add_argument(name, type=read, metavar="N", required=needed and default is None, default=default, help=text)


if __name__ == "__main__":
    sys.exit(main())
