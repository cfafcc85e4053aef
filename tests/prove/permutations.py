"""A request written in a thousand ways is one question; another tenant's same question is another."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from tests.prove.fleet import Claim, Fleet, send

AT_ONCE = 20
DEFAULTS: dict[str, Any] = {"temperature": 1, "top_p": 1, "parallel_tool_calls": True, "truncation": "disabled"}


def spelled(chance: random.Random) -> bytes:
    """The one question, written somehow: order, spaces, numbers, defaults."""
    message = {"role": "user", "content": "How many ways are there to ask this?"}
    body: dict[str, Any] = {"model": chance.choice(["fast", "gpt-6-luna"]), "input": [message], "max_output_tokens": 64}
    for name, value in DEFAULTS.items():
        how = chance.choice(["absent", "null", "said"])
        if how != "absent":
            body[name] = None if how == "null" else value
    space = chance.choice(["", " ", "\n  ", "\t"])

    def written(value: Any) -> str:
        if isinstance(value, dict):
            items = list(value.items())
            chance.shuffle(items)
            return "{" + f",{space}".join(f"{json.dumps(key)}{space}:{written(item)}" for key, item in items) + "}"
        if isinstance(value, list):
            return "[" + f",{space}".join(map(written, value)) + "]"
        if type(value) is int:
            return chance.choice([str(value), f"{value}.0", f"{value}e0", f"{value / 10}e1"])
        return json.dumps(value, ensure_ascii=chance.choice([True, False]))

    # OpenAI takes a whole number of tokens only, and so do we.
    text = written({name: value for name, value in body.items() if name != "max_output_tokens"})
    return f'{text[:-1]},{space}"max_output_tokens":{space}64}}'.encode()


async def permutations(fleet: Fleet, ways: int) -> Claim:
    """Ask once, then in every other way on every replica."""
    chance = random.Random(1)
    key, ports = fleet.key("permuted"), [replica.port for replica in fleet.replicas]
    await send(ports[0], key, spelled(chance))
    hits = 0
    for start in range(0, ways, AT_ONCE):
        asked = [send(ports[(start + n) % len(ports)], key, spelled(chance)) for n in range(min(AT_ONCE, ways - start))]
        hits += sum(answer.cache in ("hit", "join") for answer in await asyncio.gather(*asked))
    return Claim(f"{ways} spellings of one request", "100 % hits", f"{100 * hits / ways:.1f} % hits", hits == ways)


async def tenants(fleet: Fleet, questions: int) -> Claim:
    """Two tenants ask the same questions, the second after the first."""
    keys, ports = (fleet.key("one"), fleet.key("two")), [replica.port for replica in fleet.replicas]
    crossed = 0
    for number in range(questions):
        body = json.dumps({"model": "fast", "input": f"Whose is this? {number}"}).encode()
        one, two = [await send(ports[number % len(ports)], key, body) for key in keys]
        crossed += two.cache != "miss" or one.body == two.body
    return Claim(
        f"{questions} questions of two tenants", "0 cross-tenant hits", f"{crossed} cross-tenant hits", not crossed
    )
