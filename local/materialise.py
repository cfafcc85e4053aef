"""Mocks that make what the app talks to in the emulated AWS, and invent well-formed attributes for everything else."""

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks

from local.emulated import ACCOUNT, MAKERS, Aws, physical_name
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

    @property
    def aws(self) -> Aws:
        """The clients of the emulated AWS."""
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
        return synthetic(args.typ, args.name, args.inputs, self._region)

    def _cache(self, args: MockResourceArgs) -> tuple[str, dict[str, Any]]:
        """Caches of every kind point at the run's own server; the rest of ElastiCache is only names."""
        identifier, outputs = synthetic(args.typ, args.name, args.inputs, self._region)
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


def synthetic(typ: str, name: str, inputs: dict[str, Any], region: str) -> tuple[str, dict[str, Any]]:
    """A well-formed id and ARN for a resource that nothing on this machine talks to.

    A type token `aws:lb/targetGroup:TargetGroup` gives `arn:aws:elasticloadbalancing:...:targetgroup/<name>/<hex>`.
    """
    service, kind = _SPLIT.fullmatch(typ).groups() if _SPLIT.fullmatch(typ) else ("custom", typ)  # type: ignore[union-attr]
    named = inputs.get("name") or inputs.get("namePrefix") or physical_name(name)
    unique = hashlib.sha256(f"{typ}::{name}".encode()).hexdigest()[:17]
    path = f"{kind.lower()}/{named}"
    region_in_arn = "" if service in _GLOBAL else region
    arn = f"arn:aws:{_ARN_SERVICE.get(service, service)}:{region_in_arn}:{ACCOUNT}:{path}"
    outputs: dict[str, Any] = {"name": named, "arn": arn}
    match typ:
        case "aws:lb/loadBalancer:LoadBalancer":
            suffix = f"app/{named}/{unique[:16]}"
            outputs.update(arnSuffix=suffix, dnsName=f"{named}.{region}.elb.amazonaws.com", zoneId="Z35SXDOTRQ7X7K")
            outputs["arn"] = f"arn:aws:elasticloadbalancing:{region}:{ACCOUNT}:loadbalancer/{suffix}"
        case "aws:lb/targetGroup:TargetGroup":
            suffix = f"targetgroup/{named}/{unique[:16]}"
            outputs.update(arnSuffix=suffix, arn=f"arn:aws:elasticloadbalancing:{region}:{ACCOUNT}:{suffix}")
        case "aws:ecr/repository:Repository":
            outputs.update(registryId=ACCOUNT, repositoryUrl=f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com/{named}")
        case "aws:ecs/taskDefinition:TaskDefinition":
            outputs.update(
                revision=1,
                family=inputs["family"],
                arn=f"arn:aws:ecs:{region}:{ACCOUNT}:task-definition/{inputs['family']}:1",
            )
        case "aws:route53/zone:Zone":
            outputs.update(zoneId=f"Z{unique[:13].upper()}", nameServers=[f"ns-{n}.awsdns.example" for n in range(4)])
        case "aws:iam/role:Role":
            outputs.update(uniqueId=f"AROA{unique.upper()}", arn=f"arn:aws:iam::{ACCOUNT}:role/{named}")
        case (
            "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
            | "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
        ):
            outputs["securityGroupRuleId"] = f"sgr-{unique}"
    if service == "ec2":
        return f"{_EC2_PREFIX.get(kind, kind.lower())}-{unique}", outputs
    return _identifier(typ, named, outputs), outputs


def _identifier(typ: str, named: str, outputs: dict[str, Any]) -> str:
    by_arn = typ.startswith(("aws:lb/", "aws:sns/topic:", "aws:acm/", "aws:ecs/"))
    identifier: str = outputs["arn"] if by_arn else named
    return identifier


_SPLIT = re.compile(r"aws:(\w+)/\w+:(\w+)")
_GLOBAL = {"iam", "route53", "budgets", "costexplorer"}
_ARN_SERVICE = {
    "lb": "elasticloadbalancing",
    "cloudwatch": "logs",
    "costexplorer": "ce",
    "vpc": "ec2",
    "appautoscaling": "autoscaling",
}
_EC2_PREFIX = {
    "Vpc": "vpc",
    "Subnet": "subnet",
    "SecurityGroup": "sg",
    "InternetGateway": "igw",
    "NatGateway": "nat",
    "RouteTable": "rtb",
    "VpcEndpoint": "vpce",
    "Eip": "eipalloc",
    "FlowLog": "fl",
}
