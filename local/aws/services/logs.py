"""CloudWatch Logs. moto has groups, filters and resource policies, but not a group's class.

CreateLogGroup, DescribeLogGroups, DeleteLogGroup    logGroupClass, STANDARD when none was sent
"""

from local.aws.call import Call, Record
from local.aws.registry import api

SERVICE = "logs"


@api(SERVICE, "CreateLogGroup")
def create_group(call: Call) -> Record:
    """CreateLogGroup."""
    answer = call.moto()
    call.table("groups")[call["logGroupName"]] = call.pick("logGroupClass")
    return answer


@api(SERVICE, "DescribeLogGroups")
def describe_groups(call: Call) -> Record:
    """DescribeLogGroups."""
    answer = call.moto()
    for group in answer.get("logGroups", []):
        group.update({"logGroupClass": "STANDARD", **call.table("groups").get(group["logGroupName"], {})})
    return answer


@api(SERVICE, "DeleteLogGroup")
def delete_group(call: Call) -> Record:
    """DeleteLogGroup."""
    answer = call.moto()
    call.table("groups").pop(call["logGroupName"], None)
    return answer
