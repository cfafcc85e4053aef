"""SQS. moto re-serialises one policy and forgets another.

CreateQueue, SetQueueAttributes   keep the three JSON attributes as they were sent, without white space (as AWS does)
GetQueueAttributes                answers them; without RedriveAllowPolicy aws_sqs_queue_redrive_allow_policy waits for
                                  more than 7 minutes
DeleteQueue                       forgets them
"""

import json

from local.aws.call import Call, Record
from local.aws.registry import api

SERVICE = "sqs"
DOCUMENTS = ("RedrivePolicy", "RedriveAllowPolicy", "Policy")


def _kept(call: Call, url: str) -> dict[str, str | None]:
    kept: dict[str, str | None] = call.table("documents").setdefault(url.rstrip("/").rsplit("/", 1)[-1], {})
    return kept


def _keep(call: Call, url: str) -> None:
    sent = call.get("Attributes", {})
    for name in DOCUMENTS:
        if name in sent:
            text = json.dumps(json.loads(sent[name]), separators=(",", ":")) if sent[name] else None
            _kept(call, url)[name] = text


def _for_moto(call: Call) -> Record:
    """moto does not know RedriveAllowPolicy; an attribute map of that alone would be refused as empty."""
    sent = call.get("Attributes")
    return {"Attributes": {k: v for k, v in sent.items() if k != "RedriveAllowPolicy"} or None} if sent else {}


@api(SERVICE, "CreateQueue")
def create(call: Call) -> Record:
    """CreateQueue."""
    answer = call.moto(**_for_moto(call))
    _keep(call, answer["QueueUrl"])
    return answer


@api(SERVICE, "SetQueueAttributes")
def set_attributes(call: Call) -> Record:
    """SetQueueAttributes."""
    left = _for_moto(call)
    answer = call.moto(**left) if left.get("Attributes") else {}
    _keep(call, call["QueueUrl"])
    return answer


@api(SERVICE, "GetQueueAttributes")
def get_attributes(call: Call) -> Record:
    """GetQueueAttributes."""
    names = call.get("AttributeNames", [])
    known = [name for name in names if name != "RedriveAllowPolicy"]
    answer = call.moto(AttributeNames=known) if known or not names else {}
    attributes = answer.setdefault("Attributes", {})
    for name, value in _kept(call, call["QueueUrl"]).items():
        if name in names or "All" in names:
            attributes.pop(name, None)
            if value:
                attributes[name] = value
    return answer


@api(SERVICE, "DeleteQueue")
def delete(call: Call) -> Record:
    """DeleteQueue."""
    answer = call.moto()
    call.table("documents").pop(call["QueueUrl"].rstrip("/").rsplit("/", 1)[-1], None)
    return answer
