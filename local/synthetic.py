"""Well-formed ids and attributes for resources that nothing on this machine talks to."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ACCOUNT = "123456789012"

_TOKEN = re.compile(r"aws:(\w+)/\w+:(\w+)")
_GLOBAL_SERVICES = {"iam", "route53", "budgets", "costexplorer"}
_ARN_SERVICES = {"lb": "elasticloadbalancing", "cloudwatch": "logs", "costexplorer": "ce", "vpc": "ec2"}
_EC2_PREFIXES = {
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
_IDENTIFIED_BY_ARN = ("aws:lb/", "aws:ecs/", "aws:acm/", "aws:sns/topic:")


@dataclass(frozen=True)
class Subject:
    """One resource to invent attributes for."""

    typ: str
    name: str
    """Its physical name."""
    region: str
    inputs: dict[str, Any]

    @property
    def unique(self) -> str:
        """Seventeen hex digits, the same for the same resource."""
        return hashlib.sha256(f"{self.typ}::{self.name}".encode()).hexdigest()[:17]

    def arn(self, service: str, path: str) -> str:
        """An ARN in the resource's region, or without one for a global service."""
        region = "" if service in _GLOBAL_SERVICES else self.region
        return f"arn:aws:{_ARN_SERVICES.get(service, service)}:{region}:{ACCOUNT}:{path}"


def attributes(typ: str, physical_name: str, inputs: dict[str, Any], region: str) -> tuple[str, dict[str, Any]]:
    """The id and the outputs of a resource of any type; those of `_SPECIAL` have what programs read from them."""
    subject = Subject(typ, physical_name, region, inputs)
    match = _TOKEN.fullmatch(typ)
    service, kind = match.groups() if match else ("custom", typ.rpartition(":")[2])
    outputs = {"name": physical_name, "arn": subject.arn(service, f"{kind.lower()}/{physical_name}")}
    if special := _SPECIAL.get(typ):
        outputs |= special(subject)
    if service == "ec2":
        return f"{_EC2_PREFIXES.get(kind, kind.lower())}-{subject.unique}", outputs
    return outputs["arn"] if typ.startswith(_IDENTIFIED_BY_ARN) else physical_name, outputs


def _load_balancer(subject: Subject) -> dict[str, Any]:
    suffix = f"app/{subject.name}/{subject.unique[:16]}"
    return {
        "arn": subject.arn("lb", f"loadbalancer/{suffix}"),
        "arnSuffix": suffix,
        "dnsName": f"{subject.name}.{subject.region}.elb.amazonaws.com",
        "zoneId": f"Z{subject.unique[:13].upper()}",
    }


def _target_group(subject: Subject) -> dict[str, Any]:
    suffix = f"targetgroup/{subject.name}/{subject.unique[:16]}"
    return {"arn": subject.arn("lb", suffix), "arnSuffix": suffix}


def _repository(subject: Subject) -> dict[str, Any]:
    registry = f"{ACCOUNT}.dkr.ecr.{subject.region}.amazonaws.com"
    return {"registryId": ACCOUNT, "repositoryUrl": f"{registry}/{subject.name}"}


def _task_definition(subject: Subject) -> dict[str, Any]:
    family = subject.inputs["family"]
    return {"revision": 1, "arn": subject.arn("ecs", f"task-definition/{family}:1")}


def _zone(subject: Subject) -> dict[str, Any]:
    servers = [f"ns-{number}.awsdns.example" for number in range(4)]
    return {"zoneId": f"Z{subject.unique[:13].upper()}", "nameServers": servers}


def _certificate(subject: Subject) -> dict[str, Any]:
    domain = subject.inputs["domainName"]
    record = {"domainName": domain, "resourceRecordName": f"_{subject.unique}.{domain}.", "resourceRecordType": "CNAME"}
    return {"domainValidationOptions": [{**record, "resourceRecordValue": f"_{subject.unique}.validations.example."}]}


def _rule(subject: Subject) -> dict[str, Any]:
    return {"securityGroupRuleId": f"sgr-{subject.unique}"}


_SPECIAL: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "aws:lb/loadBalancer:LoadBalancer": _load_balancer,
    "aws:lb/targetGroup:TargetGroup": _target_group,
    "aws:ecr/repository:Repository": _repository,
    "aws:ecs/taskDefinition:TaskDefinition": _task_definition,
    "aws:route53/zone:Zone": _zone,
    "aws:acm/certificate:Certificate": _certificate,
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _rule,
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": _rule,
}
