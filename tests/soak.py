"""What takes longer than a test may: `make soak`, or parts of it by name, `make soak ARGS="cache ledger"`.

traffic (without a name): a long steady mix against one replica. Whole answers, streams, cached questions, embeddings,
callers who leave, and an OpenAI that fails now and then. It fails when memory, tasks or descriptors grow over the
second half, or when anything happened that no fault explains.
cache: random steps of the cache's own code, in every order of messages, losses, frozen and killed replicas. It fails at
the first answer that is stale after an acknowledged change, or another tenant's.
ledger: random histories of the ledger's own code, with crashes, pauses and lost answers. It fails at the first one that
breaks an invariant of docs/money.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import aiohttp
from moto.server import ThreadedMotoServer

from local.openai.server import Running, running
from tests import ledger_check
from tests.app.cache import simulation
from tests.app.conftest import BASE_ENVIRONMENT, CloudParts, fake_server, make_parts, redis_server
from tests.app.replica import Replica, made_up_openai_key, openai_secret, prodkit_key, replica

SECONDS, RATE = 300, 40
MOST_SECONDS = 3_600
STEPS, WORLD_STEPS = 1_000_000, 10_000
TRACES, TRACES_AT_ONCE = 1_000_000, 1_000
MOST_MINUTES = 120.0
CALL_SECONDS = 20.0
SAMPLES = 120
"""Of memory, tasks and descriptors, evenly over the run."""
MEMORY_MIB = 6.0
MEMORY_SHARE = 0.03
COUNT_GROWTH = 8.0
COUNT_SHARE = 0.15
"""What the last quarter may have more than the one before it: of memory, and of tasks or descriptors. A steady rate
still varies by chance; a leak of one in a hundred requests is beyond it within minutes."""
IDLE_TASKS = 5
"""More than before the traffic, once it is over: what serves idle connections."""
EXPLAINED = frozenset({"upstream_incomplete", "upstream_invalid_response", "upstream_unreachable", "server_error"})
"""Codes of the faults that the simulator is told to make, as callers get them."""
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "code": "server_error", "every": 17},
    {"kind": "cut", "after": 6, "every": 23},
    {"kind": "malformed", "after": 4, "every": 41},
    {"kind": "disconnect", "every": 53},
)
OUTPUT_TOKENS = 200
"""At most, of each answer: OpenAI counts it whole, and the simulator has its limits of tokens a minute."""
MIX = {"whole": 30, "stream": 30, "cached": 20, "embedding": 10, "leaves": 10}
"""Shares of the requests."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One replica at one moment."""

    memory_mib: float
    tasks: int
    descriptors: int


@dataclass
class Outcome:
    """What a run saw."""

    before: Sample
    samples: list[Sample] = field(default_factory=list)
    after: Sample | None = None
    seen: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Everything that must not be; empty after a good run."""
        found = [
            *self.unexplained[:20],
            *growth("memory, MiB", [s.memory_mib for s in self.samples], MEMORY_MIB, MEMORY_SHARE),
        ]
        found += growth("tasks", [s.tasks for s in self.samples], COUNT_GROWTH, COUNT_SHARE)
        found += growth("descriptors", [s.descriptors for s in self.samples], COUNT_GROWTH, COUNT_SHARE)
        if self.after is not None and self.after.tasks > self.before.tasks + IDLE_TASKS:
            found.append(f"{self.after.tasks} tasks after the traffic, {self.before.tasks} before it")
        missing = [kind for kind in MIX if not self.seen[kind]]
        if missing:
            found.append(f"no request of these kinds: {', '.join(missing)}")
        return found


def growth(what: str, values: Sequence[float], most: float, share: float) -> list[str]:
    """A problem when the last quarter of `values` is above the one before it by more than both bounds allow."""
    quarter = len(values) // 4
    if not quarter:
        return [f"{what}: {len(values)} samples are too few to judge"]
    before, last = fmean(values[-2 * quarter : -quarter]), fmean(values[-quarter:])
    allowed = max(most, share * before)
    return [f"{what}: {before:.1f} grew to {last:.1f}, over {allowed:.1f} more"] if last - before > allowed else []


async def soak(
    process: Replica, upstream: Running, key: str, *, seconds: float, rate: float, progress: bool
) -> Outcome:
    """Run the mix for so long at so many requests a second."""
    for fault in FAULTS:
        upstream.fault(**fault, times=None)
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:
        outcome = Outcome(await sample(http, process))
        caller = _Caller(http, process, outcome, random.Random(7))
        sampling = asyncio.create_task(_sample(http, process, outcome, seconds, progress=progress))
        began = time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        while (passed := time.monotonic() - began) < seconds:
            task = asyncio.create_task(caller.call())
            calls.add(task)
            task.add_done_callback(calls.discard)
            # Moments are fixed beforehand: a slow replica cannot slow its load.
            await asyncio.sleep(max(0.0, (int(passed * rate) + 1) / rate - passed))
        await asyncio.gather(*calls)
        await sampling
        for _ in range(20):
            outcome.after = await sample(http, process)
            if outcome.after.tasks <= outcome.before.tasks + IDLE_TASKS:
                break
            await asyncio.sleep(0.25)
    outcome.unexplained += [line for line in process.lines if "Traceback" in line]
    outcome.unexplained += [json.dumps(line) for line in process.request_lines() if line.get("domain") == "us"]
    return outcome


@dataclass
class _Caller:
    http: aiohttp.ClientSession
    process: Replica
    outcome: Outcome
    chance: random.Random

    async def call(self) -> None:
        """One request of a kind by chance; an answer that nothing explains is written down."""
        kind = self.chance.choices([*MIX], [*MIX.values()])[0]
        self.outcome.seen[kind] += 1
        path, body = self._request(kind)
        try:
            async with self.http.post(f"{self.process.base_url}{path}", json=body) as answer:
                if kind == "leaves":
                    await answer.content.readany()
                    return
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.outcome.unexplained.append(f"{kind}: {type(error).__name__}: {error}")
            return
        self._judge(kind, answer.status, content)

    def _request(self, kind: str) -> tuple[str, dict[str, Any]]:
        number = self.chance.randrange(10 if kind == "cached" else 1 << 40)
        question = f"Tell me about number {number}"
        if kind == "embedding":
            return "/embeddings", {"model": "text-embedding-3-small", "input": question}
        body = {"model": "fast", "stream": kind in ("stream", "leaves")}
        if self.chance.random() < 0.5:
            return "/responses", {**body, "input": question, "max_output_tokens": OUTPUT_TOKENS}
        messages = [{"role": "user", "content": question}]
        return "/chat/completions", {**body, "messages": messages, "max_tokens": OUTPUT_TOKENS}

    def _judge(self, kind: str, status: int, content: bytes) -> None:
        self.outcome.seen[str(status)] += 1
        if status == 200 and kind != "stream":
            return
        whole = b"[DONE]" in content or b'"response.completed"' in content
        if status == 200 and whole:
            return
        explained = any(f'"{code}"'.encode() in content for code in EXPLAINED)
        if not explained or status not in (200, 500, 502):
            self.outcome.unexplained.append(f"{kind}: {status} {content[-300:]!r}")


async def sample(http: aiohttp.ClientSession, process: Replica) -> Sample:
    """The replica as /proc and its own readiness report show it."""
    async with http.get(f"http://127.0.0.1:{process.port}/health/ready") as answer:
        tasks = int((await answer.json())["tasks"])
    folder = Path(f"/proc/{process.process.pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return Sample(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), tasks, len(list((folder / "fd").iterdir())))


async def _sample(
    http: aiohttp.ClientSession, process: Replica, outcome: Outcome, seconds: float, *, progress: bool
) -> None:
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(seconds / SAMPLES)
        now = await sample(http, process)
        outcome.samples.append(now)
        if progress and number % (SAMPLES // 20) == 0:
            shown = f"{now.memory_mib:6.1f} MiB {now.tasks:4} tasks {now.descriptors:4} descriptors"
            requests = sum(outcome.seen[kind] for kind in MIX)
            print(f"{number * 100 // SAMPLES:3} % {shown} {requests:6} requests", flush=True)  # noqa: T201


@contextlib.contextmanager
def world() -> Iterator[tuple[Replica, Running, str]]:
    """A replica, the simulator behind it and a key, on loopback."""
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_EC2_METADATA_DISABLED="true")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each question to the emulated AWS
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store: Any = redis_server(directory) if shutil.which("redis-server") else fake_server()
        opened = stack.enter_context(store)
        aws = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        aws.start()
        stack.callback(aws.stop)
        cloud: CloudParts = make_parts("http://{}:{}".format(*aws.get_host_and_port()))
        upstream = stack.enter_context(running())
        environment = BASE_ENVIRONMENT | {
            "PRODKIT_OPENAI_BASE_URL": upstream.base_url,
            "PRODKIT_OPENAI_SECRET_ARN": openai_secret(cloud, made_up_openai_key()),
            "PRODKIT_QUEUE_URL": cloud.queue_url,
            "PRODKIT_CACHE_ENDPOINT": f"127.0.0.1:{opened[0] if isinstance(opened, tuple) else opened}",
            "AWS_ENDPOINT_URL": cloud.url,
        }
        key = prodkit_key(cloud, "soak", requests_per_minute=1_000_000, tokens_per_minute=1_000_000_000)
        yield stack.enter_context(replica(environment)), upstream, key


@dataclass(frozen=True)
class Counted:
    """A part that is a number of things to do, each by its own seed."""

    name: str
    total: int
    at_once: int
    run: Callable[[int, int], str]
    """Does so many of them from a seed on, and tells what was seen; raises AssertionError or BrokenError."""

    def soak(self, first_seed: int, most_minutes: float) -> str | None:
        """Do all of them within that time, and show how far it is; the problem, if there is one."""
        began, shown = time.monotonic(), 0
        for done in range(0, self.total, self.at_once):
            if time.monotonic() - began > most_minutes * 60:
                return f"{self.name}: {done} of {self.total} in {most_minutes:g} minutes; the rest was not tried"
            count = min(self.at_once, self.total - done)
            try:
                seen = self.run(count, first_seed + done)
            except (AssertionError, ledger_check.BrokenError) as error:
                return f"{self.name}: in the {count} from seed {first_seed + done}: {error}"
            percent = (done + count) * 100 // self.total
            if percent >= shown + 5 or percent == 100:
                shown = percent
                print(f"{self.name} {percent:3} % {time.monotonic() - began:6.0f} s  {seen}", flush=True)  # noqa: T201
        return None


def counted(steps: int, traces: int) -> dict[str, Counted]:
    """The parts that need no processes, by name."""
    read: Counter[str] = Counter()

    def orders(count: int, seed: int) -> str:
        made = simulation.run(count, seed)
        read.update(read=made.hits, changes=made.changes)
        return f"{read['read']} kept answers read, {read['changes']} changes acknowledged; none stale, none another's"

    def histories(count: int, seed: int) -> str:
        ledger_check.check(count, seed)
        return "every invariant held"

    parts = (Counted("cache", steps, WORLD_STEPS, orders), Counted("ledger", traces, TRACES_AT_ONCE, histories))
    return {part.name: part for part in parts}


def _traffic(seconds: float, rate: float) -> list[str]:
    with world() as (process, upstream, key):
        outcome = asyncio.run(soak(process, upstream, key, seconds=seconds, rate=rate, progress=True))
    print(f"{dict(sorted(outcome.seen.items()))}")  # noqa: T201
    return outcome.problems()


def main(argv: Sequence[str] | None = None) -> int:
    """Soak and judge; returns 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="traffic, cache, ledger; default traffic")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"of traffic; default {SECONDS}, at most {MOST_SECONDS}"
    )
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests a second of traffic; default {RATE}")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the cache; default %(default)s, ten seconds")
    parser.add_argument("--traces", type=int, default=TRACES, help="of the ledger; default %(default)s, forty minutes")
    parser.add_argument("--seed", type=int, help="of cache and ledger; default by chance, and shown")
    parser.add_argument(
        "--minutes", type=float, default=MOST_MINUTES, help="the most for cache and for ledger; default %(default)g"
    )
    given = parser.parse_args(argv)
    parts = counted(given.steps, given.traces)
    asked = list(dict.fromkeys(given.parts or ["traffic"]))
    if unknown := [name for name in asked if name not in ("traffic", *parts)]:
        parser.error(f"no part {', '.join(unknown)}; choose from traffic, {', '.join(parts)}")
    if min(given.seconds, given.rate, given.steps, given.traces) <= 0:
        parser.error("--seconds, --rate, --steps and --traces are above 0: nothing done proves nothing")
    if "traffic" in asked and not Path("/proc/self/statm").exists():
        print("Memory and descriptors are read from /proc, which this system does not have.")  # noqa: T201
        return 2
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    problems = []
    for name in asked:
        if name == "traffic":
            problems += _traffic(min(given.seconds, MOST_SECONDS), given.rate)
            continue
        print(f"{name}: {parts[name].total} from seed {seed}", flush=True)  # noqa: T201
        if problem := parts[name].soak(seed, given.minutes):
            print(problem, flush=True)  # noqa: T201 - the next part may take long
            problems.append(problem)
    print("\n".join(problems) or "nothing wrong")  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
