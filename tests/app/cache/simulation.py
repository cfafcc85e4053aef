"""Replicas, a Valkey and a clock in one thread without any socket: the cache's own code, in every order there is.

What the cache awaits is a command to the Valkey played here, or a sleep. Each command is done at one moment and its
answer arrives at another; in between anything may happen, also that the answer is lost. Times move only when told to.
`python -m tests.soak cache` takes a million steps.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, cast

from app.cache import scripts
from app.cache.answers import Answers
from app.cache.epochs import LEASE_SECONDS
from app.cache.place import Place
from app.cache.watch import fields_of
from app.errors import ApiError
from app.models import CachePolicy
from app.valkey.client import Valkey, ValkeyAwayError

TENANTS, TAGS, QUESTIONS = ("acme", "globex"), ("documents", "prices"), ("q1", "q2")
POLICY = CachePolicy(1_000_000, 0)
ENTRY_BYTES = 1 << 20
EVENTS_KEPT = (1, 2, 10_000)
"""So few that replicas often come too late for some, or as many as in service."""


@dataclass(slots=True)
class Command:
    """Something awaited: a command for the server, or a sleep until a time."""

    parts: tuple[Any, ...] = ()
    until: float | None = None
    done: bool = False
    result: Any = None

    def __await__(self) -> Generator[Command, None, Any]:
        answer = yield self
        if isinstance(answer, Exception):
            raise answer
        return answer


class Server:
    """What the scripts do, in Python, over the same keys."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ids = 0
        self.kept = EVENTS_KEPT[-1]
        self.epochs: dict[str, str] = {}
        self.events: list[tuple[str, str | None]] = []
        self.replicas: dict[str, str] = {}
        self.questions: dict[str, bytes] = {}
        self._run: dict[str, Callable[..., Any]] = {
            scripts.JOIN._hash: self._join,
            scripts.SYNC._hash: self._sync,
            scripts.BUMP._hash: self._bump,
            scripts.LOAD._hash: self._load,
            scripts.FORGET._hash: self._forget,
            scripts.CLAIM._hash: self._claim,
            scripts.KEEP._hash: self._keep,
        }

    def do(self, parts: tuple[Any, ...]) -> Any:
        """The answer to a command."""
        name = parts[0]
        if name == "EVALSHA":
            count = parts[2]
            return self._run[parts[1]](parts[3], *parts[3 + count :])
        if name == "SET":
            _, key, value, *options = parts
            assert options[:3] == ["NX", "GET", "PX"]
            return self._claim_free(key, value)
        if name == "HGETALL":
            return _flat(self.replicas)
        if name == "XREAD":
            return [(scripts.EVENTS.encode(), self._after(parts[1]))]
        raise AssertionError(name)

    def lose(self, what: str) -> None:
        """A key is gone."""
        lost: dict[str, Any] = {"epochs": self.epochs, "events": self.events, "replicas": self.replicas}
        lost[what].clear()

    def _add(self, changed: str | None) -> str:
        self._ids += 1
        self.events.append((f"{self._ids}-0", changed))
        del self.events[: -self.kept]
        return self.events[-1][0]

    def _generation(self) -> str:
        if "" not in self.epochs:
            self.epochs.clear()
            self.epochs[""] = self._add(None)
        return self.epochs[""]

    def _after(self, seen: str) -> list[Any]:
        found = [event for event in self.events if _number(event[0]) > _number(seen)]
        return [(name.encode(), {b"all": b"1"} if at is None else {b"field": at.encode()}) for name, at in found]

    def _more(self) -> bool:
        self.replicas.setdefault("", str(self._clock()))
        return self._clock() - float(self.replicas[""]) < 2 * LEASE_SECONDS

    def _join(self, _key: str, replica: str, lost: int) -> Any:
        if lost:
            self.epochs.clear()
        current = self._generation()
        seen = self.events[-1][0] if self.events else "0-0"
        self._more()
        self.replicas[replica] = f"{seen} 0"
        return [seen.encode(), current.encode()]

    def _sync(self, _key: str, replica: str, seen: str) -> Any:
        if not self.events or _number(self.events[-1][0]) < _number(seen):
            return [b"lost"]
        if replica not in self.replicas:
            return [b"unknown"]
        beat = int(self.replicas[replica].split()[1]) + 1
        self.replicas[replica] = f"{seen} {beat}"
        if all(name != seen for name, _ in self.events):
            return [b"unknown"]
        events = [[name, [part for pair in values.items() for part in pair]] for name, values in self._after(seen)]
        return [b"ok", events, _flat(self.replicas)]

    def _bump(self, _key: str, changed: str) -> Any:
        self._generation()
        event = self._add(changed)
        self.epochs[changed] = event
        more = self._more()
        return [event.encode(), _flat(self.replicas), int(more)]

    def _load(self, _key: str, *names: str) -> Any:
        current = self._generation()
        return [self.epochs.get(name, current).encode() for name in names]

    def _forget(self, _key: str, replica: str, said: str) -> int:
        if self.replicas.get(replica) != said:
            return 0
        del self.replicas[replica]
        return 1

    def _claim_free(self, key: str, claim: str) -> bytes | None:
        found = self.questions.get(key)
        if found is None:
            self.questions[key] = claim.encode()
        return found

    def _claim(self, key: str, claim: str, *_: Any) -> bytes | None:
        found = self._claim_free(key, claim)
        if found is not None and found[:1] == scripts.CLAIMED.encode():
            found = self.questions[key] = found[:1] + b"1" + found[2:]
        return found

    def _keep(self, key: str, token: str, value: bytes, *_: Any) -> int:
        found = self.questions.get(key, b"")
        if found[:1] == scripts.CLAIMED.encode() and found[2:].split()[0] != token.encode():
            return 0
        self.questions[key] = value
        return 1


@dataclass(eq=False, slots=True)
class Strand:
    """One coroutine and what it waits for."""

    replica: Replica
    coroutine: Coroutine[Any, Any, None]
    waits: Command | None = None


@dataclass(eq=False)
class Replica:
    """One replica: its cache, and whether its process is stopped."""

    answers: Answers
    frozen: bool = False
    strands: list[Strand] = field(default_factory=list)


class _Client:
    def __init__(self, valkey: _Valkey) -> None:
        self._valkey = valkey

    async def xread(self, streams: dict[str, str], **_: Any) -> Any:
        return await self._valkey.call("XREAD", streams[scripts.EVENTS])


class _Valkey:
    """The client that the cache gets."""

    def __init__(self) -> None:
        self.client = _Client(self)

        self.posted: list[Any] = []
        """Sent without waiting: whoever runs the one that sent it steps through it."""

    async def call(self, *parts: Any) -> Any:
        return await Command(parts)

    def ask(self, command: tuple[Any, ...], *, ahead: bool = False) -> tuple[tuple[Any, ...], None]:
        return command, None

    async def answer(self, asked: tuple[tuple[Any, ...], None]) -> Any:
        return await Command(asked[0])

    def post(self, *parts: Any) -> None:
        self.posted.append(parts)


class World:
    """A fleet, its data, and what has been promised about them."""

    def __init__(self, replicas: int = 3) -> None:
        self.now = 0.0
        self.server = Server(lambda: self.now)
        self.data: dict[tuple[str, str], int] = {}
        """How often the data behind each tenant's tag has changed."""
        self.promised: dict[tuple[str, str], int] = {}
        """The version of the data that an acknowledged change has promised: nobody sees an older one."""
        self.replicas: list[Replica] = []
        self.steps = self.reads = self.hits = self.changes = 0
        for _ in range(replicas):
            self.start()

    def start(self) -> Replica:
        """One more replica."""
        answers = Answers(
            cast(Valkey, _Valkey()),
            ENTRY_BYTES,
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            chance=lambda: 0.0,
            sleep=self._sleep,
        )
        replica = Replica(answers)
        self.replicas.append(replica)
        self._begin(replica, answers.watch._run())
        return replica

    def kill(self, replica: Replica) -> None:
        """A replica is gone, with all it was doing."""
        self.replicas.remove(replica)
        for strand in replica.strands:
            strand.coroutine.close()
        replica.strands.clear()

    def ask(self, replica: Replica, tenant: str, question: str, tags: tuple[str, ...]) -> None:
        """A request comes."""
        self._begin(replica, self._ask(replica, tenant, question, tags))

    def change(self, replica: Replica, tenant: str, tag: str) -> None:
        """Data change, and the change is invalidated."""
        self.data[tenant, tag] = self.data.get((tenant, tag), 0) + 1
        self._begin(replica, self._change(replica, tenant, tag, self.data[tenant, tag]))

    def advance(self, strand: Strand, *, fail: bool = False) -> None:
        """One step of one strand: its command is done, or its answer arrives. `fail` = it never does."""
        self.steps += 1
        waits = strand.waits
        assert waits is not None
        if waits.until is not None:
            if self.now >= waits.until:
                self._resume(strand, None)
        elif fail:
            self._resume(strand, ValkeyAwayError("lost"))
        elif waits.done:
            self._resume(strand, waits.result)
        else:
            waits.result, waits.done = self.server.do(waits.parts), True

    def waiting(self) -> list[Strand]:
        """Everything that can go on."""
        return [strand for replica in self.replicas if not replica.frozen for strand in replica.strands]

    def random_step(self, chance: random.Random) -> None:
        """Anything that may happen."""
        dice = chance.random()
        replica = chance.choice(self.replicas)
        tenant = chance.choice(TENANTS)
        if dice < 0.10:
            tags = tuple(sorted(chance.sample(TAGS, chance.choice((0, 1, 1, 2)))))
            self.ask(replica, tenant, chance.choice(QUESTIONS), tags)
        elif dice < 0.115:
            self.change(replica, tenant, chance.choice((*TAGS, "")))
        elif dice < 0.20:
            self.now += chance.choice((0.001, 0.01, 0.05, 0.3))
        elif dice < 0.205:
            replica.frozen = not replica.frozen
        elif dice < 0.207 and len(self.replicas) > 2:
            self.kill(replica)
        elif dice < 0.209 and len(self.replicas) < 5:
            self.start()
        elif dice < 0.210:
            for what in chance.choice((("epochs",), ("events",), ("replicas",), ("epochs", "events", "replicas"))):
                self.server.lose(what)
        waiting = self.waiting()
        if waiting:
            self.advance(chance.choice(waiting), fail=chance.random() < 0.01)

    async def _sleep(self, seconds: float) -> None:
        await Command(until=self.now + seconds)

    async def _ask(self, replica: Replica, tenant: str, question: str, tags: tuple[str, ...]) -> None:
        promised = dict(self.promised)
        answers = replica.answers
        place = Place(tenant, "/v1/responses", False, question.encode(), fields_of(tenant, tags), POLICY)
        stamp = await answers.watch.stamp(place.fields)
        if stamp is None:
            return
        place.at(stamp)
        found = answers.held(place)
        if found is None:
            try:
                claim = await answers.store.claim(place, token := str(self.steps), 1_000)
            except ValkeyAwayError:
                return
            if claim.entry is not None:
                found = answers.accept(place, claim.entry)
        if found is not None:
            self._check(found.entry.body.decode(), tenant, question, tags, promised)
            return
        made = {tag: self.data.get((tenant, tag), 0) for tag in (*tags, "")}
        await self._sleep(0.02)  # while the model answers
        text = repr((tenant, question, made))
        entry = answers.made(place, text.encode(), "m")
        answers.keep(place, token, entry)
        valkey = cast(_Valkey, answers.valkey)
        posted, valkey.posted = valkey.posted, []
        with contextlib.suppress(ValkeyAwayError):
            for command in posted:
                await Command(command)

    def _check(
        self, text: str, tenant: str, question: str, tags: tuple[str, ...], promised: dict[tuple[str, str], int]
    ) -> None:
        self.hits += 1
        whose, what, made = eval(text)  # our own repr
        assert (whose, what) == (tenant, question), "an answer of somebody else, or to something else"
        for tag in (*tags, ""):
            assert made[tag] >= promised.get((tenant, tag), 0), f"older than a change of {tag!r}"

    async def _change(self, replica: Replica, tenant: str, tag: str, version: int) -> None:
        try:
            await replica.answers.watch.invalidate(tenant, tag)
        except ApiError:
            return  # nothing is promised
        self.changes += 1
        self.promised[tenant, tag] = max(version, self.promised.get((tenant, tag), 0))

    def _begin(self, replica: Replica, coroutine: Coroutine[Any, Any, None]) -> None:
        self.reads += 1
        strand = Strand(replica, coroutine)
        replica.strands.append(strand)
        self._resume(strand, None)

    def _resume(self, strand: Strand, answer: Any) -> None:
        try:
            strand.waits = strand.coroutine.send(answer)
        except StopIteration:
            strand.replica.strands.remove(strand)


def run(steps: int, seed: int) -> World:
    """A world after so many random steps; raises AssertionError when a promise is broken."""
    chance = random.Random(seed)
    world = World()
    world.server.kept = chance.choice(EVENTS_KEPT)
    for _ in range(steps):
        world.random_step(chance)
    return world


def _flat(values: dict[str, str]) -> list[bytes]:
    return [part.encode() for pair in values.items() for part in pair]


def _number(event: str) -> int:
    return int(event.partition("-")[0])
