"""Application Auto Scaling. moto keeps targets and policies; it has no tags.

RegisterScalableTarget      also keeps the tags it is given, and answers the target's ARN
DeregisterScalableTarget    forgets them
ListTagsForResource         read by aws_appautoscaling_target on every refresh; without it nothing can be scaled
TagResource, UntagResource  tag changes of the target
"""

from local.aws.call import Call, Record
from local.aws.registry import api
from local.aws.tags import mapping, tagging

SERVICE = "application-autoscaling"
tagging(SERVICE, arn="ResourceARN")


@api(SERVICE, "RegisterScalableTarget")
def register(call: Call) -> Record:
    """RegisterScalableTarget."""
    answer = call.moto()
    call.tags(answer["ScalableTargetARN"]).update(mapping(call.get("Tags")))
    call.table("arns")[_key(call)] = answer["ScalableTargetARN"]
    return answer


@api(SERVICE, "DeregisterScalableTarget")
def deregister(call: Call) -> Record:
    """DeregisterScalableTarget."""
    answer = call.moto()
    call.table("tags").pop(call.table("arns").pop(_key(call), None), None)
    return answer


def _key(call: Call) -> tuple[str, str, str]:
    return call["ServiceNamespace"], call["ResourceId"], call["ScalableDimension"]
