"""ElastiCache: subnet groups, serverless caches and tags. moto has neither of the first two.

Create, Describe, Modify and DeleteCacheSubnetGroup    aws_elasticache_subnet_group
Create, Describe, Modify and DeleteServerlessCache     aws_elasticache_serverless_cache
ListTagsForResource, AddTagsToResource, RemoveTagsFromResource
"""

from moto.ec2.models import ec2_backends

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.services.elasticache_store import SERVICE, VERSIONS, create, delete, described
from local.aws.state import now
from local.aws.tags import mapping, pairs


@api(SERVICE, "ListTagsForResource")
def list_tags(call: Call) -> Record:
    """ListTagsForResource."""
    return {"TagList": pairs(call.tags(call["ResourceName"]))}


@api(SERVICE, "AddTagsToResource")
def add_tags(call: Call) -> Record:
    """AddTagsToResource."""
    call.tags(call["ResourceName"]).update(mapping(call["Tags"]))
    return list_tags(call)


@api(SERVICE, "RemoveTagsFromResource")
def remove_tags(call: Call) -> Record:
    """RemoveTagsFromResource."""
    for key in call["TagKeys"]:
        call.tags(call["ResourceName"]).pop(key, None)
    return list_tags(call)


def _subnets(call: Call, ids: list[str]) -> Record:
    found: list[tuple[str, Record]] = []
    for subnet_id in ids:
        subnet = ec2_backends[call.account][call.region].get_subnet(subnet_id)
        found.append(
            (
                subnet.vpc_id,
                {
                    "SubnetIdentifier": subnet_id,
                    "SubnetAvailabilityZone": {"Name": subnet.availability_zone},
                    "SupportedNetworkTypes": ["ipv4"],
                },
            )
        )
    if len({vpc for vpc, _ in found}) != 1:
        raise AwsError("InvalidSubnet", "The subnets must be in one VPC")
    return {"VpcId": found[0][0], "Subnets": [subnet for _, subnet in found], "SupportedNetworkTypes": ["ipv4"]}


@api(SERVICE, "CreateCacheSubnetGroup")
def create_subnet_group(call: Call) -> Record:
    """CreateCacheSubnetGroup."""
    group = {**call.pick("CacheSubnetGroupName", "CacheSubnetGroupDescription"), **_subnets(call, call["SubnetIds"])}
    return {"CacheSubnetGroup": create(call, "subnet groups", call["CacheSubnetGroupName"], group, "subnetgroup")}


@api(SERVICE, "DescribeCacheSubnetGroups")
def describe_subnet_groups(call: Call) -> Record:
    """DescribeCacheSubnetGroups."""
    found = described(call, "subnet groups", "CacheSubnetGroupName", "CacheSubnetGroupNotFoundFault")
    return {"CacheSubnetGroups": found}


@api(SERVICE, "ModifyCacheSubnetGroup")
def modify_subnet_group(call: Call) -> Record:
    """ModifyCacheSubnetGroup."""
    group = call.find("subnet groups", call["CacheSubnetGroupName"], "CacheSubnetGroupNotFoundFault")
    group.update(call.pick("CacheSubnetGroupDescription"))
    if call.get("SubnetIds"):
        group.update(_subnets(call, call["SubnetIds"]))
    return {"CacheSubnetGroup": group}


@api(SERVICE, "DeleteCacheSubnetGroup")
def delete_subnet_group(call: Call) -> Record:
    """DeleteCacheSubnetGroup."""
    name = call["CacheSubnetGroupName"]
    if any(group["_sent"].get("CacheSubnetGroupName") == name for group in call.table("replication groups").values()):
        raise AwsError("CacheSubnetGroupInUse", f"Cache subnet group {name} is currently in use by a cache cluster.")
    delete(call, "subnet groups", name, "CacheSubnetGroupNotFoundFault")
    return {}


def _serverless(call: Call) -> Record:
    return call.find("serverless caches", call["ServerlessCacheName"], "ServerlessCacheNotFoundFault")


@api(SERVICE, "CreateServerlessCache")
def create_serverless(call: Call) -> Record:
    """CreateServerlessCache."""
    name, engine = call["ServerlessCacheName"], call["Engine"]
    major = call.get("MajorEngineVersion", VERSIONS.get(engine, "8")[0])
    cache = {
        "Description": " ",
        "SnapshotRetentionLimit": 0,
        **call.pick(
            "ServerlessCacheName",
            "Description",
            "Engine",
            "CacheUsageLimits",
            "KmsKeyId",
            "SecurityGroupIds",
            "UserGroupId",
            "SnapshotRetentionLimit",
            "DailySnapshotTime",
        ),
        "MajorEngineVersion": major,
        "FullEngineVersion": f"{major}.0" if "." not in major else major,
        "CreateTime": now(),
        "Status": "available",
        "SubnetIds": sorted(call.get("SubnetIds", [])),
        "Endpoint": {"Address": f"{name}-em0001.serverless.use1.cache.amazonaws.com", "Port": 6379},
        "ReaderEndpoint": {"Address": f"{name}-em0001.serverless.use1.cache.amazonaws.com", "Port": 6380},
    }
    cache.setdefault("DailySnapshotTime", "03:00")
    cache.setdefault("CacheUsageLimits", {})
    return {"ServerlessCache": create(call, "serverless caches", name, cache, "serverlesscache")}


@api(SERVICE, "DescribeServerlessCaches")
def describe_serverless(call: Call) -> Record:
    """DescribeServerlessCaches."""
    return {
        "ServerlessCaches": described(call, "serverless caches", "ServerlessCacheName", "ServerlessCacheNotFoundFault")
    }


@api(SERVICE, "ModifyServerlessCache")
def modify_serverless(call: Call) -> Record:
    """ModifyServerlessCache."""
    cache = _serverless(call)
    cache.update(
        {name: value for name, value in call.params.items() if name != "RemoveUserGroup" and value is not None}
    )
    if call.get("RemoveUserGroup"):
        cache.pop("UserGroupId", None)
    return {"ServerlessCache": cache}


@api(SERVICE, "DeleteServerlessCache")
def delete_serverless(call: Call) -> Record:
    """DeleteServerlessCache."""
    cache = delete(call, "serverless caches", call["ServerlessCacheName"], "ServerlessCacheNotFoundFault")
    return {"ServerlessCache": {**cache, "Status": "deleting"}}
