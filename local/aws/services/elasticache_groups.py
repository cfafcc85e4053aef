"""ElastiCache replication groups and their member clusters.

moto's groups have no members, so the provider cannot read engine, version or security groups back, and stay "deleting".

Create, Describe, Modify and DeleteReplicationGroup, DescribeCacheClusters    aws_elasticache_replication_group
"""

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api
from local.aws.services.elasticache_store import SERVICE, VERSIONS, create, delete, described
from local.aws.state import now

HOST = "{name}.em0001.use1.cache.amazonaws.com"
_MEMBERS_ANSWER = (
    "SecurityGroupIds",
    "PreferredMaintenanceWindow",
    "NotificationTopicArn",
    "CacheParameterGroupName",
    "EngineVersion",
)
_COPIED = (
    "AtRestEncryptionEnabled",
    "TransitEncryptionEnabled",
    "TransitEncryptionMode",
    "KmsKeyId",
    "UserGroupIds",
    "SnapshotRetentionLimit",
    "SnapshotWindow",
    "CacheNodeType",
    "AutoMinorVersionUpgrade",
    "NetworkType",
    "IpDiscovery",
    "ClusterMode",
    "Engine",
    "SnapshottingClusterId",
    "Durability",
)


def _served(group: Record) -> Record:
    return {name: value for name, value in group.items() if name != "_sent" and value is not None}


def _toggle(value: bool | None) -> str:
    return "enabled" if value else "disabled"


def _logs(sent: list[Record] | None) -> list[Record]:
    """Log delivery as described: what was sent, less the entries switched off, plus a status."""
    return [
        {**{name: value for name, value in one.items() if name != "Enabled"}, "Status": "active"}
        for one in sent or ()
        if one.get("Enabled", True)
    ]


def _shape(call: Call, group: Record, shards: int, replicas: int) -> None:
    """Lay out node groups and members for a count of shards and of replicas in each."""
    name, port = group["ReplicationGroupId"], group["_sent"]["Port"]
    clustered = group["ClusterEnabled"]
    zones = [f"{call.region}{letter}" for letter in "abc"]
    members, groups = [], []
    for shard in range(shards):
        shard_members = []
        for replica in range(replicas + 1):
            member = f"{name}-{shard + 1:04d}-{replica + 1:03d}" if clustered else f"{name}-{replica + 1:03d}"
            members.append(member)
            entry: Record = {
                "CacheClusterId": member,
                "CacheNodeId": "0001",
                "PreferredAvailabilityZone": zones[replica % 3],
            }
            if not clustered:
                entry["CurrentRole"] = "replica" if replica else "primary"
                entry["ReadEndpoint"] = {"Address": HOST.format(name=member), "Port": port}
            shard_members.append(entry)
        node_group: Record = {
            "NodeGroupId": f"{shard + 1:04d}",
            "Status": "available",
            "NodeGroupMembers": shard_members,
        }
        if clustered:
            node_group["Slots"] = f"{16384 * shard // shards}-{16384 * (shard + 1) // shards - 1}"
        else:
            node_group["PrimaryEndpoint"] = {"Address": HOST.format(name=f"master.{name}"), "Port": port}
            node_group["ReaderEndpoint"] = {"Address": HOST.format(name=f"replica.{name}"), "Port": port}
        groups.append(node_group)
    group.update(MemberClusters=members, NodeGroups=groups)
    if clustered:
        group["ConfigurationEndpoint"] = {"Address": HOST.format(name=f"clustercfg.{name}"), "Port": port}


@api(SERVICE, "CreateReplicationGroup")
def create_replication_group(call: Call) -> Record:
    """CreateReplicationGroup."""
    name, engine = call["ReplicationGroupId"], call.get("Engine", "redis")
    if call.get("AuthToken") and not call.get("TransitEncryptionEnabled"):
        raise AwsError(
            "InvalidParameterCombination", "The AUTH token is only supported when encryption-in-transit is enabled"
        )
    shards = call.get("NumNodeGroups") or len(call.get("NodeGroupConfiguration", [])) or 1
    replicas = call.get("NumCacheClusters", call.get("ReplicasPerNodeGroup", 0) + 1) - 1
    if call.get("AutomaticFailoverEnabled") and not replicas and shards == 1:
        raise AwsError("InvalidParameterCombination", "Automatic failover requires at least 2 nodes")
    clustered = (
        call.get("ClusterMode") == "enabled" or shards > 1 or ".cluster.on" in call.get("CacheParameterGroupName", "")
    )
    sent = call.pick("CacheSubnetGroupName", *_MEMBERS_ANSWER)
    sent["Port"] = call.get("Port", 6379)
    group = {
        "AtRestEncryptionEnabled": engine == "valkey",
        "TransitEncryptionEnabled": False,
        "SnapshotRetentionLimit": 0,
        "SnapshotWindow": "05:00-06:00",
        "AutoMinorVersionUpgrade": True,
        "NetworkType": "ipv4",
        "IpDiscovery": "ipv4",
        "ClusterMode": "enabled" if clustered else "disabled",
        "Engine": engine,
        **call.pick(*_COPIED),
        "ReplicationGroupId": name,
        "Description": call["ReplicationGroupDescription"],
        "Status": "available",
        "PendingModifiedValues": {},
        "AutomaticFailover": _toggle(call.get("AutomaticFailoverEnabled")),
        "MultiAZ": _toggle(call.get("MultiAZEnabled")),
        "AuthTokenEnabled": bool(call.get("AuthToken")),
        "DataTiering": _toggle(call.get("DataTieringEnabled")),
        "ClusterEnabled": clustered,
        "ReplicationGroupCreateTime": now(),
        "LogDeliveryConfigurations": _logs(call.get("LogDeliveryConfigurations")),
        "_sent": sent,
    }
    if group["TransitEncryptionEnabled"]:
        group.setdefault("TransitEncryptionMode", "required")
    _shape(call, group, shards, replicas)
    if group["SnapshotRetentionLimit"]:
        group["SnapshottingClusterId"] = group["MemberClusters"][-1]
    return {"ReplicationGroup": _served(create(call, "replication groups", name, group, "replicationgroup"))}


def _group(call: Call) -> Record:
    return call.find("replication groups", call["ReplicationGroupId"], "ReplicationGroupNotFoundFault")


@api(SERVICE, "DescribeReplicationGroups")
def describe_replication_groups(call: Call) -> Record:
    """DescribeReplicationGroups."""
    return {
        "ReplicationGroups": [
            _served(group)
            for group in described(call, "replication groups", "ReplicationGroupId", "ReplicationGroupNotFoundFault")
        ]
    }


@api(SERVICE, "ModifyReplicationGroup")
def modify_replication_group(call: Call) -> Record:
    """ModifyReplicationGroup."""
    group = _group(call)
    group.update(call.pick(*_COPIED))
    group["_sent"].update(call.pick(*_MEMBERS_ANSWER))
    if call.get("ReplicationGroupDescription"):
        group["Description"] = call["ReplicationGroupDescription"]
    if call.get("AutomaticFailoverEnabled") is not None:
        group["AutomaticFailover"] = _toggle(call["AutomaticFailoverEnabled"])
    if call.get("MultiAZEnabled") is not None:
        group["MultiAZ"] = _toggle(call["MultiAZEnabled"])
    if call.get("AuthTokenUpdateStrategy"):
        group["AuthTokenEnabled"] = call["AuthTokenUpdateStrategy"] != "DELETE"
    if call.get("LogDeliveryConfigurations") is not None:
        changed = {one["LogType"] for one in call["LogDeliveryConfigurations"]}
        kept = [one for one in group["LogDeliveryConfigurations"] if one["LogType"] not in changed]
        group["LogDeliveryConfigurations"] = kept + _logs(call["LogDeliveryConfigurations"])
    users = set(group.get("UserGroupIds", [])) | set(call.get("UserGroupIdsToAdd", []))
    users -= set(call.get("UserGroupIdsToRemove", [])) if not call.get("RemoveUserGroups") else users
    group["UserGroupIds"] = sorted(users)
    return {"ReplicationGroup": _served(group)}


@api(SERVICE, "DeleteReplicationGroup")
def delete_replication_group(call: Call) -> Record:
    """DeleteReplicationGroup."""
    group = delete(call, "replication groups", call["ReplicationGroupId"], "ReplicationGroupNotFoundFault")
    return {"ReplicationGroup": {**_served(group), "Status": "deleting"}}


def _member(call: Call, group: Record, name: str) -> Record:
    sent, engine = group["_sent"], group["Engine"]
    version = sent.get("EngineVersion") or VERSIONS.get(engine, "8.0.1")
    if version.count(".") == 1:
        version += ".0"
    default = f"default.{engine}{version.split('.')[0]}" + (".cluster.on" if group["ClusterEnabled"] else "")
    cluster = {
        "CacheClusterId": name,
        "ReplicationGroupId": group["ReplicationGroupId"],
        "CacheClusterStatus": "available",
        "CacheClusterCreateTime": group["ReplicationGroupCreateTime"],
        "EngineVersion": version,
        "NumCacheNodes": 1,
        "PreferredMaintenanceWindow": sent.get("PreferredMaintenanceWindow", "sun:05:00-sun:06:00"),
        "CacheParameterGroup": {
            "CacheParameterGroupName": sent.get("CacheParameterGroupName", default),
            "ParameterApplyStatus": "in-sync",
            "CacheNodeIdsToReboot": [],
        },
        "CacheSubnetGroupName": sent.get("CacheSubnetGroupName", "default"),
        "SecurityGroups": [{"SecurityGroupId": one, "Status": "active"} for one in sent.get("SecurityGroupIds", [])],
        "ARN": call.arn(f"cluster:{name}"),
        "ReplicationGroupLogDeliveryEnabled": bool(group["LogDeliveryConfigurations"]),
        "CacheNodes": [
            {
                "CacheNodeId": "0001",
                "CacheNodeStatus": "available",
                "ParameterGroupStatus": "in-sync",
                "Endpoint": {"Address": HOST.format(name=name), "Port": sent["Port"]},
            }
        ],
    }
    for copied in (
        "Engine",
        "CacheNodeType",
        "AutoMinorVersionUpgrade",
        "SnapshotRetentionLimit",
        "SnapshotWindow",
        "AuthTokenEnabled",
        "TransitEncryptionEnabled",
        "TransitEncryptionMode",
        "AtRestEncryptionEnabled",
        "NetworkType",
        "IpDiscovery",
    ):
        if group.get(copied) is not None:
            cluster[copied] = group[copied]
    if sent.get("NotificationTopicArn"):
        cluster["NotificationConfiguration"] = {"TopicArn": sent["NotificationTopicArn"], "TopicStatus": "active"}
    return cluster


@api(SERVICE, "DescribeCacheClusters")
def describe_clusters(call: Call) -> Record:
    """DescribeCacheClusters."""
    wanted = call.get("CacheClusterId")
    members = [
        _member(call, group, name)
        for group in call.table("replication groups").values()
        for name in group["MemberClusters"]
        if wanted in (None, name)
    ]
    return {"CacheClusters": members}
