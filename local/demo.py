"""`make demo-deploy`: every web replica is replaced under live streams and new requests, and nobody notices."""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from local.callers import Callers, Questions, Stream, callers
from local.children import ChildFailedError, exit_text
from local.interrupts import InterruptedRunError
from local.screen import Progress
from local.tasks import Departure
from local.up import Running

SPEED = 20.0
"""Slow enough that a stream of some hundred words outlives the start of a replica."""
LONGEST_SECONDS = 400.0
SHOW_SECONDS = 5.0


@dataclass(frozen=True)
class Plan:
    """What to send."""

    streams: int
    words: int
    """Of each stream's answer."""


@dataclass(frozen=True)
class Outcome:
    """What a deployment did to the callers."""

    streams: Sequence[Stream]
    questions: Questions
    replicas: int
    """Those that were to be replaced."""
    departures: Sequence[Departure]
    failure: str | None
    """Why the deployment did not go through."""

    @property
    def cut(self) -> list[Stream]:
        """Streams without a whole answer."""
        return [stream for stream in self.streams if stream.problem is not None]

    @property
    def open_when_they_left(self) -> int:
        """Streams that were live when the first old replica got its last request."""
        began = min((departure.began for departure in self.departures), default=None)
        return 0 if began is None else sum(stream.open_at(began) for stream in self.streams)

    def problems(self) -> list[str]:
        """What broke the promise, worst first; empty when it was kept."""
        found = []
        if self.cut:
            found.append(
                f"{len(self.cut)} of {len(self.streams)} streams were cut; number {self.cut[0].number}: "
                f"{self.cut[0].problem}"
            )
        if refusals := self.questions.refusals:
            found.append(f"{len(refusals)} of {self.questions.asked} requests were refused; the first: {refusals[0]}")
        if self.failure is not None:
            found.append(f"the deployment failed: {self.failure}")
        if len(self.departures) != self.replicas:
            found.append(f"{len(self.departures)} of {self.replicas} replicas were replaced")
        found += [
            f"{left.name} ended with {exit_text(left.status)}, not in order" for left in self.departures if left.status
        ]
        if self.open_when_they_left < len(self.streams):
            found.append(
                f"only {self.open_when_they_left} of {len(self.streams)} streams were live when the old replicas began "
                "to leave, which shows little; ask for longer ones with --words"
            )
        return found

    def text(self) -> str:
        """The figures."""
        lives = [stream.seconds for stream in self.streams]
        return "\n".join(
            [
                "",
                f"  streams cut        {len(self.cut)}/{len(self.streams)}  "
                f"(they lived {min(lives):.0f} to {max(lives):.0f} s; {self.open_when_they_left} were live when the "
                "old replicas began to leave)",
                f"  requests refused   {len(self.questions.refusals)}/{self.questions.asked}  (new ones meanwhile)",
                f"  replicas replaced  {len(self.departures)}/{self.replicas}",
                "",
            ]
        )


async def demonstrate(plan: Plan, running: Running, progress: Progress) -> int:
    """Open the streams, deploy under them, tell what happened; 0 when nobody noticed."""
    async with callers(running.ready.address, running.ready.api_key) as calling:
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                work = _deploy(plan, running, calling, progress)
                outcome = await running.interrupts.unless(running.interrupts.first, work)
        except InterruptedRunError:
            progress.line("interrupted: nothing is shown")
            return 130
        except TimeoutError:
            progress.line(f"given up: it was not over after {LONGEST_SECONDS:.0f} s")
            return 1
    progress.show(outcome.text())
    problems = outcome.problems()
    for problem in problems:
        progress.line(f"FAILED: {problem}")
    if problems:
        running.children.keep_logs = True
        return 1
    progress.line("the deployment cut no stream and refused no request")
    return 0


async def _deploy(plan: Plan, running: Running, calling: Callers, progress: Progress) -> Outcome:
    streams = [Stream(number) for number in range(1, plan.streams + 1)]
    questions, replicas = Questions(), sum(r.task.name == running.twin.web.name for r in running.supervisor.replicas)
    departures: list[Departure] = []
    failure = None
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(_show(streams, questions, progress))
        reading = [group.create_task(calling.read(stream, plan.words)) for stream in streams]
        await asyncio.gather(*(stream.begun.wait() for stream in streams))
        asking = group.create_task(calling.ask(questions))
        delay = running.twin.balancing.deregistration_delay_seconds
        progress.line(
            f"{plan.streams} streams are live; replacing {replicas} web replicas (deregistration delay {delay:g} s)"
        )
        try:
            departures = await running.supervisor.roll(running.twin.web)
        except ChildFailedError as failed:
            failure = str(failed)
        await asyncio.wait(reading)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        showing.cancel()
    return Outcome(streams, questions, replicas, departures, failure)


async def _show(streams: Sequence[Stream], questions: Questions, progress: Progress) -> None:
    """Tell how it goes, every few seconds."""
    for _ in itertools.count():
        await asyncio.sleep(SHOW_SECONDS)
        live = sum(stream.begun.is_set() and not stream.ended_at for stream in streams)
        whole = sum(stream.ended_at > 0 and stream.problem is None for stream in streams)
        cut = sum(stream.problem is not None for stream in streams)
        progress.line(
            f"streams: {live} live, {whole} whole, {cut} cut; "
            f"requests: {questions.answered} answered, {len(questions.refusals)} refused"
        )
