"""Mocks that answer every resource with made-up but well-formed outputs, so that nothing in a recording is unknown."""

import hashlib
from typing import Any

from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks

from preflight.monitor import EXAMPLE_ACCOUNT, invoke_answer
from preflight.record import Recording, evaluate

REGION = "us-east-1"


class Known(Mocks):
    """Every output that the program reads, for every type: what a type does not have is never asked of it."""

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        return invoke_answer(args.token, REGION), None

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        name = args.inputs.get("name") or f"{args.name}-0123456"
        digest = "sha256:" + hashlib.sha256(args.name.encode()).hexdigest()
        arn = f"arn:aws:{args.typ.split(':')[1].split('/')[0]}:{REGION}:{EXAMPLE_ACCOUNT}:{name}"
        outputs = {
            "name": name,
            "arn": arn,
            "arnSuffix": f"app/{name}/0123456789abcdef",
            "allocationId": f"{name}-allocation",
            "bucket": name,
            "certificateArn": arn,
            "configurationProfileId": f"{name}-profile",
            "dashboardArn": arn,
            "digest": digest,
            "dnsName": f"{name}.example.com",
            "domainValidationOptions": [
                {
                    "domainName": "ai.example.com",
                    "resourceRecordName": "_x.ai.example.com.",
                    "resourceRecordType": "CNAME",
                    "resourceRecordValue": "_y.acm.example.com.",
                }
            ],
            "endpoints": [{"address": "cache.example.com", "port": 6379}],
            "environmentId": f"{name}-environment",
            "fqdn": f"{name}.example.com",
            "image_uri": f"repository@{digest}",
            "keyId": f"{name}-key",
            "nameServers": ["ns-1.example.com"],
            "repositoryUrl": f"{EXAMPLE_ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{name}",
            "url": f"https://sqs.{REGION}.amazonaws.com/{EXAMPLE_ACCOUNT}/{name}",
            "versionNumber": 1,
            "zoneId": "Z0123456789ABCDEFGHIJ",
        }
        return f"{args.name}-id", {**outputs, **args.inputs}


def known(stack: str, **overrides: str) -> Recording:
    """A stack with every output made up, as after a deployment."""
    return evaluate(stack, Known(), preview=False, overrides=overrides)
