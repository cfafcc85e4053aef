"""S3. Two repairs of moto, and the tags of a bucket as version 6 of the AWS provider manages them.

Bucket policies     moto ignores Condition, so the usual "deny everything that is not TLS" statement locks every caller
                    out for good. A statement with a condition is not evaluated here: the emulator speaks plain HTTP.
PutBucketLogging    moto breaks on a statement whose Principal is "*" (the same TLS statement) in the target's policy.
s3control ListTagsForResource, TagResource, UntagResource
"""

import json
from typing import Any

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.s3.models import FakeBucket, s3_backends

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.tags import mapping, pairs

SERVICE = "s3control"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _get_permission(bucket: Any, action: str, resource: str) -> Any:
    statements = _listed(json.loads(bucket.policy)["Statement"]) if bucket.policy else []
    evaluated = [one for one in statements if not one.get("Condition")]
    if not evaluated:
        return PermissionResult.NEUTRAL
    return IAMPolicy(json.dumps({"Version": "2012-10-17", "Statement": evaluated})).is_action_permitted(
        action, resource
    )


def _logging_allowed(target_bucket: Any, target_prefix: str) -> bool:
    for one in _listed(json.loads(target_bucket.policy)["Statement"]) if target_bucket.policy else ():
        principal = one["Principal"] if isinstance(one.get("Principal"), dict) else {}
        may = "logging.s3.amazonaws.com" in _listed(principal.get("Service"))
        if one["Effect"] == "Allow" and may and {"s3:PutObject", "s3:*"} & set(_listed(one.get("Action"))):
            return True
    return False


FakeBucket.get_permission = _get_permission
FakeBucket._log_permissions_enabled_policy = staticmethod(_logging_allowed)


def _bucket(call: Call) -> tuple[Any, str]:
    """The tagger, and the ARN of the bucket that the call names."""
    backend = s3_backends[call.account]["aws"]
    name = call["ResourceArn"].rsplit(":", 1)[-1]
    if name not in backend.buckets:
        raise AwsError("NotFoundException", f"{call['ResourceArn']} does not exist")
    return backend.tagger, backend.buckets[name].arn


@api(SERVICE, "ListTagsForResource")
def list_tags(call: Call) -> Record:
    """ListTagsForResource."""
    tagger, arn = _bucket(call)
    return {"Tags": pairs(tagger.get_tag_dict_for_resource(arn))}


@api(SERVICE, "TagResource")
def tag(call: Call) -> Record:
    """TagResource."""
    tagger, arn = _bucket(call)
    tagger.tag_resource(arn, pairs(mapping(call["Tags"])))
    return {}


@api(SERVICE, "UntagResource")
def untag(call: Call) -> Record:
    """UntagResource."""
    tagger, arn = _bucket(call)
    tagger.untag_resource_using_names(arn, call["TagKeys"])
    return {}
