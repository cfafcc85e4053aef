"""Runs the real program in this process and writes down every resource it registers: no command, account or network.

`record` answers as a preview does: what AWS would decide is unknown. `evaluate` takes the caller's mocks instead, so
that a twin of the stack can be built from the very inputs that were registered.
"""

import asyncio
import gc
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import MockResourceArgs, Mocks

from preflight.monitor import PreviewMocks, RecordingEngine, RecordingMonitor, Resource
from preflight.project import ROOT, Project, Setting

# PULUMI_CONFIG belongs to the process: one program at a time may see its own.
_environment = threading.Lock()


@dataclass(frozen=True, slots=True)
class Recording:
    """What one stack's program registered, in the order of registration."""

    stack: str
    project: str
    resources: list[Resource]
    outputs: dict[str, Any]
    settings: dict[str, Setting]
    messages: list[str] = field(default_factory=list)
    """Warnings and errors that the program logged, and what was assumed about the account."""

    def of_type(self, token: str) -> list[Resource]:
        """Resources of one type token such as `aws:s3/bucket:Bucket`, by name."""
        return sorted((one for one in self.resources if one.type == token), key=lambda one: one.name)

    def one(self, token: str, name: str | None = None) -> Resource:
        """The only resource of a type (and name). Raises LookupError when there is none or more than one."""
        found = [resource for resource in self.of_type(token) if name in (None, resource.name)]
        if len(found) != 1:
            raise LookupError(f"{len(found)} resources of type {token} {name or ''}: {[item.name for item in found]}")
        return found[0]

    def children(self, urn: str) -> list[Resource]:
        """Resources registered directly under a parent."""
        return [resource for resource in self.resources if resource.parent == urn]


def record(stack: str, overrides: Mapping[str, str] | None = None, root: Path = ROOT) -> Recording:
    """Records a stack as a preview would see it.

    `overrides` are configuration values that win over the stack file; keys may leave out the project's namespace.
    Raises UnknownStackError, and what the program raises (a bad setting is a pulumi.RunError whose text is the fix).
    """
    return evaluate(stack, None, preview=True, overrides=overrides, root=root)


def evaluate(
    stack: str,
    mocks: Mocks | None,
    preview: bool = False,
    overrides: Mapping[str, str] | None = None,
    root: Path = ROOT,
    parallel: int = 1,
) -> Recording:
    """Runs the program of `root` for a stack with the given mocks and returns what it registered.

    `mocks.new_resource` is called for custom resources only, with secrets opened and whole numbers as int; it returns
    the physical id and the outputs, to which the inputs are added where it says nothing. `mocks.call` answers invokes.
    `parallel` is how many resources may be made at the same time; with 1 the order is always the same.
    """
    project = Project.load(root)
    settings = project.settings(stack, overrides)
    assumed = PreviewMocks(settings)
    monitor = RecordingMonitor(mocks or assumed, root)
    engine = RecordingEngine()

    def run() -> None:
        with _configured(settings), _importable(root), _uncollected():
            pulumi.runtime.set_all_config(
                {key: setting.value for key, setting in settings.items()},
                [key for key, setting in settings.items() if setting.secret],
            )
            pulumi.runtime.configure(
                pulumi.runtime.Settings(
                    project=project.name,
                    stack=stack,
                    monitor=monitor,
                    engine=engine,
                    dry_run=preview,
                    root_directory=str(root),
                    organization="organization",
                )
            )
            _run_program(root / "__main__.py", parallel)

    _in_own_thread(run)
    messages = [*engine.messages, *sorted(assumed.assumptions)]
    return Recording(stack, project.name, monitor.recorded(), monitor.stack_outputs(), settings, messages)


def _run_program(path: Path, parallel: int) -> None:
    code = compile(path.read_text(), str(path), "exec")

    def program() -> None:
        exec(code, {"__name__": "__main__", "__file__": str(path)})  # noqa: S102 - the project's own program

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _loop, _context: None)  # a failed program leaves futures that nobody awaits
    executor = ThreadPoolExecutor(parallel)
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(program))
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        executor.shutdown()
        asyncio.set_event_loop(None)
        loop.close()


def _in_own_thread(work: Any) -> None:
    """A new thread starts with empty context variables and no event loop: no state of the SDK outlives the call."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=guarded, name="program")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


@contextmanager
def _configured(settings: Mapping[str, Setting]) -> Iterator[None]:
    values = json.dumps({key: setting.value for key, setting in settings.items()})
    with _environment:
        before = os.environ.get("PULUMI_CONFIG")
        os.environ["PULUMI_CONFIG"] = values
        try:
            yield
        finally:
            if before is None:
                del os.environ["PULUMI_CONFIG"]
            else:
                os.environ["PULUMI_CONFIG"] = before


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pulumi's SDK is millions of live objects: looking for garbage among them takes longer than the program."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    if str(root) in sys.path:
        yield
        return
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))


__all__ = ["MockResourceArgs", "Mocks", "Recording", "Resource", "evaluate", "record"]
