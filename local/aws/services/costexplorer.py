"""Cost Explorer. moto keeps cost categories only; their tags stay moto's.

Create, Get, Update and DeleteAnomalyMonitor        aws_ce_anomaly_monitor
Create, Get, Update and DeleteAnomalySubscription   aws_ce_anomaly_subscription
ListTagsForResource, TagResource, UntagResource     of both
"""

import uuid

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.state import now
from local.aws.tags import mapping, pairs

SERVICE = "ce"
KINDS = {
    "AnomalyMonitor": ("MonitorArn", "anomalymonitor", "UnknownMonitorException"),
    "AnomalySubscription": ("SubscriptionArn", "anomalysubscription", "UnknownSubscriptionException"),
}
"""Kind -> member that holds its ARN, path in the ARN, error for one that does not exist."""


def _register(kind: str) -> None:
    arn_key, path, unknown = KINDS[kind]

    def find(call: Call) -> Record:
        found: Record | None = call.table(kind, region="aws").get(call[arn_key])
        if found is None:
            raise AwsError(unknown, f"{call[arn_key]} does not exist")
        return found

    @api(SERVICE, f"Create{kind}")
    def create(call: Call) -> Record:
        arn = f"arn:aws:ce::{call.account}:{path}/{uuid.uuid4()}"
        kept = {**call[kind], arn_key: arn}
        if kind == "AnomalySubscription":
            kept["AccountId"] = call.account
            kept["Subscribers"] = [{"Status": "CONFIRMED", **one} for one in kept["Subscribers"]]
        else:
            kept.update(CreationDate=now().isoformat(), LastUpdatedDate=now().isoformat(), DimensionalValueCount=0)
        call.table(kind, region="aws")[arn] = kept
        call.tags(arn).update(mapping(call.get("ResourceTags")))
        return {arn_key: arn}

    @api(SERVICE, f"Get{kind}s")
    def get(call: Call) -> Record:
        kept, wanted = call.table(kind, region="aws"), call.get(f"{arn_key}List")
        for arn in wanted or ():
            if arn not in kept:
                raise AwsError(unknown, f"{arn} does not exist")
        return {f"{kind}s": [one for arn, one in kept.items() if not wanted or arn in wanted]}

    @api(SERVICE, f"Update{kind}")
    def update(call: Call) -> Record:
        find(call).update({key: value for key, value in call.params.items() if key != arn_key})
        return {arn_key: call[arn_key]}

    @api(SERVICE, f"Delete{kind}")
    def delete(call: Call) -> Record:
        find(call)
        del call.table(kind, region="aws")[call[arn_key]]
        call.table("tags").pop(call[arn_key], None)
        return {}


for _kind in KINDS:
    _register(_kind)


def _ours(call: Call) -> bool:
    return any(f":{path}/" in call["ResourceArn"] for _, path, _ in KINDS.values())


@api(SERVICE, "ListTagsForResource")
def list_tags(call: Call) -> Record:
    """ListTagsForResource."""
    return {"ResourceTags": pairs(call.tags(call["ResourceArn"]))} if _ours(call) else call.moto()


@api(SERVICE, "TagResource")
def tag(call: Call) -> Record:
    """TagResource."""
    if not _ours(call):
        return call.moto()
    call.tags(call["ResourceArn"]).update(mapping(call["ResourceTags"]))
    return {}


@api(SERVICE, "UntagResource")
def untag(call: Call) -> Record:
    """UntagResource."""
    if not _ours(call):
        return call.moto()
    for key in call["ResourceTagKeys"]:
        call.tags(call["ResourceArn"]).pop(key, None)
    return {}
