"""The cache against every order of events: never another tenant's answer, never one from before a promise."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.cache.scripts import JOIN
from app.cache.watch import Watch
from tests.app.cache import simulation
from tests.app.cache.simulation import QUESTIONS, TAGS, TENANTS, World

STEPS, WORLDS = 10_000, 10
BURST = 40


def test_no_answer_is_stale_or_anothers_in_a_hundred_thousand_steps() -> None:
    for seed in range(WORLDS):
        world = simulation.run(STEPS, seed)
        assert world.hits > 50
        assert world.changes > 50


def until_it_joins(world: World) -> simulation.Strand:
    """Let everything go on, time as well, until a replica is about to ask to begin anew."""
    while True:
        for strand in world.waiting():
            if strand.waits is not None and strand.waits.parts[:2] == ("EVALSHA", JOIN._hash):
                return strand
        for strand in world.waiting():
            world.advance(strand)
        world.now += 0.01


def joined_world() -> tuple[World, Watch]:
    """One replica that trusts what it knows, an epoch among it."""
    world = World(1)
    joining, watch = until_it_joins(world), world.replicas[0].answers.watch
    world.advance(joining)
    world.advance(joining)
    watch.epochs.learn("acme\0", "1-0", watch.epochs.round)
    assert watch.epochs.stamp(("acme\0",), world.now) == "1-0"
    return world, watch


def test_a_replica_that_begins_anew_answers_nothing_before_it_is_told_what_it_counts_as_having_seen() -> None:
    world, watch = joined_world()
    world.server.lose("replicas")
    joining = until_it_joins(world)
    world.server._bump("", "acme\0")
    world.advance(joining)  # done there, and not yet known here
    assert world.server.replicas[watch.replica].startswith("2-0 ")
    assert watch.epochs.stamp(("acme\0",), world.now) is None


def test_a_loss_that_was_noticed_is_told_until_valkey_has_heard_it() -> None:
    world, watch = joined_world()
    world.server._bump("", "acme\0")
    while watch.epochs.seen != "2-0":
        world.advance(world.waiting()[0])
        world.now += 0.01
    del world.server.events[1:]  # a failover to a node that had not heard of it
    world.advance(until_it_joins(world), fail=True)
    again = until_it_joins(world)
    assert again.waits is not None
    assert again.waits.parts[-1] == 1


class Fleet(RuleBasedStateMachine):
    """The same world, its events chosen by Hypothesis, so that a broken promise comes with the shortest way to it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(2)

    @rule(replica=st.integers(0, 4), tenant=st.sampled_from(TENANTS), tags=st.sets(st.sampled_from(TAGS)))
    def ask(self, replica: int, tenant: str, tags: set[str]) -> None:
        self.world.ask(self.at(replica), tenant, QUESTIONS[0], tuple(sorted(tags)))

    @rule(replica=st.integers(0, 4), tenant=st.sampled_from(TENANTS), tag=st.sampled_from((*TAGS, "")))
    def change(self, replica: int, tenant: str, tag: str) -> None:
        self.world.change(self.at(replica), tenant, tag)

    @rule(picks=st.lists(st.integers(0, 31), min_size=1, max_size=BURST))
    def go_on(self, picks: list[int]) -> None:
        for pick in picks:
            waiting = self.world.waiting()
            if waiting:
                self.world.advance(waiting[pick % len(waiting)])

    @rule(pick=st.integers(0, 31))
    def lose_an_answer(self, pick: int) -> None:
        waiting = self.world.waiting()
        if waiting:
            self.world.advance(waiting[pick % len(waiting)], fail=True)

    @rule(milliseconds=st.sampled_from((1, 50, 300, 1_000)))
    def time_passes(self, milliseconds: int) -> None:
        self.world.now += milliseconds / 1000

    @rule(replica=st.integers(0, 4))
    def freeze_or_go_on(self, replica: int) -> None:
        found = self.at(replica)
        found.frozen = not found.frozen

    @rule()
    def start_one(self) -> None:
        if len(self.world.replicas) < 4:
            self.world.start()

    @rule(replica=st.integers(0, 4))
    def kill_one(self, replica: int) -> None:
        if len(self.world.replicas) > 1:
            self.world.kill(self.at(replica))

    @rule(what=st.sets(st.sampled_from(("epochs", "events", "replicas")), min_size=1))
    def valkey_loses(self, what: set[str]) -> None:
        for name in sorted(what):
            self.world.server.lose(name)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert all(replica.answers.memory.size <= simulation.ENTRY_BYTES for replica in self.world.replicas)

    def at(self, index: int) -> simulation.Replica:
        return self.world.replicas[index % len(self.world.replicas)]


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
