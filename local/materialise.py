"""Mocks that make what the app talks to in the emulated AWS, and invent well-formed attributes for everything else."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks

from local.emulated import MAKERS, Aws, physical_name
from local.synthetic import ACCOUNT, attributes
from preflight.monitor import invoke_answer


class Endpoints(NamedTuple):
    """Where the run's own servers are."""

    aws_url: str
    cache: str
    """`host:port`."""


class Materialiser(Mocks):
    """Answers the registrations of one evaluation.

    `endpoints` is called when the first resource needs it and may wait: the program imports while the servers start.
    """

    def __init__(self, region: str, endpoints: Callable[[], Endpoints]) -> None:
        self._region = region
        self._endpoints = endpoints
        self._aws: Aws | None = None
        self._lock = threading.Lock()

    @property
    def aws(self) -> Aws:
        """The clients of the emulated AWS."""
        with self._lock:  # resources are made in several threads
            if self._aws is None:
                self._aws = Aws(self._endpoints().aws_url, self._region)
            return self._aws

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        """What AWS says about itself: zones, account, region."""
        return invoke_answer(args.token, self._region, ACCOUNT), None

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """The physical id and the outputs of one resource, made for real if the app talks to it."""
        if maker := MAKERS.get(args.typ):
            return maker(self.aws, args.name, args.inputs)
        if args.typ.startswith("aws:elasticache/"):
            return self._cache(args)
        if args.typ.startswith("pulumi-python:dynamic"):
            return _dynamic(args)
        return self._invented(args)

    def _invented(self, args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
        name = args.inputs.get("name") or physical_name(args.inputs.get("namePrefix") or args.name)
        return attributes(args.typ, name, args.inputs, self._region)

    def _cache(self, args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """Caches of every kind point at the run's own server; the rest of ElastiCache is only names."""
        identifier, outputs = self._invented(args)
        if args.typ == "aws:elasticache/serverlessCache:ServerlessCache":
            host, _, port = self._endpoints().cache.rpartition(":")
            outputs["endpoints"] = [{"address": host, "port": int(port)}]
            outputs["readerEndpoints"] = [{"address": host, "port": int(port)}]
        elif args.typ == "aws:elasticache/replicationGroup:ReplicationGroup":
            host, _, port = self._endpoints().cache.rpartition(":")
            outputs.update(
                primaryEndpointAddress=host,
                readerEndpointAddress=host,
                configurationEndpointAddress=host,
                port=int(port),
            )
        return identifier, outputs


def _dynamic(args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
    """The image build, the one dynamic resource whose result is read: nothing is built, replicas run from this tree."""
    digest = "sha256:" + hashlib.sha256(args.name.encode()).hexdigest()
    repository = args.inputs.get("repository_url", "local")
    return digest, {"digest": digest, "image_uri": f"{repository}@{digest}"}
