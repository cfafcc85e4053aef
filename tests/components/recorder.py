"""Runs a piece of a Pulumi program under the SDK's mocks and keeps every registration with what the mocks drop."""

import asyncio
import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pulumi
from pulumi.runtime import mocks, rpc, settings
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.stack import run_pulumi_func

ACCOUNT = "123456789012"
REGION = "us-east-1"

ANSWERS: dict[str, dict[str, Any]] = {
    "aws:index/getCallerIdentity:getCallerIdentity": {
        "accountId": ACCOUNT,
        "arn": f"arn:aws:iam::{ACCOUNT}:user/test",
        "id": ACCOUNT,
        "userId": "AIDATEST",
    },
    "aws:index/getRegion:getRegion": {
        "region": REGION,
        "name": REGION,
        "id": REGION,
        "description": "US East (N. Virginia)",
        "endpoint": f"ec2.{REGION}.amazonaws.com",
    },
    "aws:index/getPartition:getPartition": {
        "partition": "aws",
        "id": "aws",
        "dnsSuffix": "amazonaws.com",
        "reverseDnsPrefix": "com.amazonaws",
    },
    "aws:index/getAvailabilityZones:getAvailabilityZones": {
        "id": REGION,
        "names": [f"{REGION}a", f"{REGION}b", f"{REGION}c"],
        "zoneIds": ["use1-az1", "use1-az2", "use1-az3"],
        "groupNames": [REGION],
    },
}
"""Answers to the provider functions that components call; a call that is not listed fails the test."""


@dataclass(frozen=True)
class Registration:
    """One registered resource: `inputs` in wire form (camelCase keys, numbers as floats, secrets wrapped)."""

    urn: str
    type: str
    name: str
    inputs: dict[str, Any]
    parent: str
    protect: bool
    ignore_changes: tuple[str, ...]
    custom: bool
    dependencies: tuple[str, ...]
    retain_on_delete: bool

    def json(self, key: str) -> Any:
        """The input `key`, which holds JSON text, as a value."""
        return json.loads(self.inputs[key])


@dataclass
class Recording:
    """What a program registered, in the order in which the monitor saw it."""

    resources: list[Registration] = field(default_factory=list)
    outputs_of: dict[str, dict[str, Any]] = field(default_factory=dict)

    def all(self, type_: str) -> list[Registration]:
        """The resources of one type token, sorted by name."""
        return sorted((r for r in self.resources if r.type == type_), key=lambda r: r.name)

    def one(self, type_: str, name: str | None = None) -> Registration:
        """The only resource of a type token (and name); fails with what there is."""
        found = [r for r in self.all(type_) if name is None or r.name == name]
        there = [(r.type, r.name) for r in self.resources]
        assert len(found) == 1, f"{len(found)} resources {type_} {name or ''} among {there}"
        return found[0]

    def outputs(self, component_type: str) -> dict[str, Any]:
        """The outputs that the only component of a type token registered, camelCase."""
        return self.outputs_of[self.one(component_type).urn]

    def strays(self, component_type: str) -> list[str]:
        """Names of the custom resources that are not children of the only component of that type."""
        urn = self.one(component_type).urn
        return [r.name for r in self.resources if r.custom and r.parent != urn]


def untagged(recording: Recording, tags: Mapping[str, str]) -> list[str]:
    """Names of the resources that take tags and did not get all of `tags`."""
    return [
        f"{resource.type} {resource.name}"
        for resource in recording.resources
        if _takes_tags(resource.type) and not tags.items() <= resource.inputs.get("tags", {}).items()
    ]


def _takes_tags(type_: str) -> bool:
    if not type_.startswith("aws:"):
        return False
    module, kind = type_.removeprefix("aws:").partition("/")[0], type_.rpartition(":")[2]
    made = getattr(importlib.import_module(f"pulumi_aws.{module}"), kind)
    return "tags" in inspect.signature(made._internal_init).parameters


class _Mocks(mocks.Mocks):
    def __init__(
        self, answers: Mapping[str, dict[str, Any]], outputs: Mapping[str, dict[str, Any]], preview: bool
    ) -> None:
        self.answers = answers
        self.outputs = outputs
        self.preview = preview

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        if args.token not in self.answers:
            raise AssertionError(f"unexpected call of {args.token}")
        return self.answers[args.token], []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        if self.preview:
            return "", dict(args.inputs)
        service, _, kind = args.typ.removeprefix("aws:").partition("/")
        arn = f"arn:aws:{service}:{REGION}:{ACCOUNT}:{kind.partition(':')[0]}/{args.name}"
        known = {"name": args.name, "bucket": args.name, "url": f"https://{service}.test/{args.name}"}
        return f"{args.name}-id", {"arn": arn, **known, **self.outputs.get(args.typ, {}), **args.inputs}


_SdkMonitor: Any = mocks.MockMonitor  # the SDK's class has no annotations


class _Monitor(_SdkMonitor):  # type: ignore[misc]  # for the same reason
    def __init__(self, answers: mocks.Mocks) -> None:
        super().__init__(answers)
        self.recording = Recording()

    def _register(self, request: resource_pb2.RegisterResourceRequest) -> Any:
        answer = super().RegisterResource(request)
        if request.type == "pulumi:pulumi:Stack":
            return answer
        self.recording.resources.append(
            Registration(
                urn=answer.urn,
                type=request.type,
                name=request.name,
                inputs=rpc.deserialize_properties(request.object),
                parent=request.parent,
                protect=request.protect,
                ignore_changes=tuple(request.ignoreChanges),
                custom=request.custom,
                dependencies=tuple(request.dependencies),
                retain_on_delete=request.retainOnDelete,
            )
        )
        return answer

    def _register_outputs(self, request: resource_pb2.RegisterResourceOutputsRequest) -> Any:
        self.recording.outputs_of[request.urn] = rpc.deserialize_properties(request.outputs)
        return super().RegisterResourceOutputs(request)

    RegisterResource = _register  # the names of the wire protocol
    RegisterResourceOutputs = _register_outputs


class Record(Protocol):
    """The `record` fixture's type."""

    def __call__(
        self,
        build: Callable[[], object],
        *,
        preview: bool = False,
        answers: Mapping[str, dict[str, Any]] | None = None,
        outputs: Mapping[str, dict[str, Any]] | None = None,
    ) -> Recording:
        """Runs `build` and returns what it registered."""
        ...


def record(
    build: Callable[[], object],
    *,
    preview: bool = False,
    answers: Mapping[str, dict[str, Any]] | None = None,
    outputs: Mapping[str, dict[str, Any]] | None = None,
) -> Recording:
    """Runs `build` as a program of project `prodkit`, stack `test`.

    Args:
        build: makes the resources; what it raises reaches the caller.
        preview: outputs that AWS computes are unknown, as in a first `pulumi preview`.
        answers: provider function token -> answer, on top of `ANSWERS`.
        outputs: resource type token -> outputs that AWS computes; inputs, `arn`, `name`, `bucket` and `url` are given.
    """
    monitor = _Monitor(_Mocks({**ANSWERS, **(answers or {})}, outputs or {}, preview))

    async def program() -> None:
        build()

    with _event_loop() as loop:
        settings.ROOT.set(None)
        settings.SETTINGS.outputs.clear()  # what a failed run left behind belongs to a closed loop
        mocks.set_mocks(monitor.mocks, project="prodkit", stack="test", preview=preview, monitor=monitor)
        loop.run_until_complete(run_pulumi_func(program))
    return monitor.recording


def resolved(record: Record, make: Callable[[], pulumi.Output[str]]) -> Any:
    """The JSON text that `make` returns as an output, as a value."""
    texts: list[str] = []
    record(lambda: make().apply(texts.append))
    assert texts, "the output is not known"
    return json.loads(texts[0])


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop of its own, closed with those that the SDK wants in each of its threads."""
    loops: list[asyncio.AbstractEventLoop] = []

    def open_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loops.append(loop)
        asyncio.set_event_loop(loop)
        return loop

    loop = open_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=4, initializer=open_loop))
    try:
        yield loop
    finally:
        unfinished = asyncio.all_tasks(loop)
        for task in unfinished:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*unfinished, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        for opened in loops:
            opened.close()
