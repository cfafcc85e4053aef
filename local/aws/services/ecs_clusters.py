"""ECS clusters: what moto forgets of them.

CreateCluster, UpdateCluster, UpdateClusterSettings, DescribeClusters    keep settings, managed storage and
                                                                         service connect defaults
"""

from local.aws.call import AwsError, Call, Record
from local.aws.registry import api

SERVICE = "ecs"
KEPT = ("configuration", "serviceConnectDefaults", "settings")


def _cluster(call: Call, cluster: Record) -> Record:
    cluster.update(call.table("clusters").get(cluster["clusterName"], {}))
    return cluster


@api(SERVICE, "CreateCluster")
def create_cluster(call: Call) -> Record:
    """CreateCluster."""
    answer = call.moto()
    call.table("clusters")[answer["cluster"]["clusterName"]] = call.pick(*KEPT)
    return {"cluster": _cluster(call, answer["cluster"])}


@api(SERVICE, "UpdateCluster", "UpdateClusterSettings")
def update_cluster(call: Call) -> Record:
    """UpdateCluster, UpdateClusterSettings."""
    name = call["cluster"].rsplit("/", 1)[-1]
    if name not in call.table("clusters"):
        raise AwsError("ClusterNotFoundException", f"Cluster {name} not found.")
    call.table("clusters")[name].update(call.pick(*KEPT))
    return {"cluster": _cluster(call, {"clusterName": name, "clusterArn": call.arn(f"cluster/{name}")})}


@api(SERVICE, "DescribeClusters")
def describe_clusters(call: Call) -> Record:
    """DescribeClusters."""
    answer = call.moto()
    answer["clusters"] = [_cluster(call, one) for one in answer.get("clusters", [])]
    return answer
