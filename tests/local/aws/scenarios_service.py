"""What is done with each service that carries traffic or runs things: one function a signing name."""

from tests.local.aws.rig import Rig, subset

CONTAINER = {
    "name": "app",
    "image": "app@sha256:0",
    "memory": 64,
    "logConfiguration": {
        "logDriver": "awslogs",
        "options": {"awslogs-group": "web", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "web"},
    },
}
BREAKER = {"deploymentCircuitBreaker": {"enable": True, "rollback": True}}


def service_that_runs(rig: Rig, **changes: object) -> dict[str, str]:
    """A cluster, two task definitions and a service of the first: names and ARNs."""
    ecs = rig.client("ecs")
    ecs.create_cluster(clusterName="c", settings=[{"name": "containerInsights", "value": "enabled"}])
    first, second = (
        ecs.register_task_definition(family="web", containerDefinitions=[CONTAINER])["taskDefinition"][
            "taskDefinitionArn"
        ]
        for _ in range(2)
    )
    ecs.create_service(
        **{
            "cluster": "c",
            "serviceName": "web",
            "taskDefinition": first,
            "desiredCount": 2,
            "deploymentConfiguration": BREAKER,
            **changes,
        }
    )
    return {"cluster": "c", "service": "web", "first": first, "second": second}


def ecs(rig: Rig) -> None:
    """A service that comes back as it was sent, settled, with one deployment for each change."""
    client, made = rig.client("ecs"), service_that_runs(rig)
    where = {"cluster": "c", "service": "web"}
    client.update_cluster(cluster="c", settings=[{"name": "containerInsights", "value": "disabled"}])
    client.update_cluster_settings(cluster="c", settings=[{"name": "containerInsights", "value": "enhanced"}])
    cluster = client.describe_clusters(clusters=["c"])["clusters"][0]
    assert cluster["settings"] == [{"name": "containerInsights", "value": "enhanced"}]
    client.update_service(**where, taskDefinition=made["second"], healthCheckGracePeriodSeconds=30)
    service = client.describe_services(cluster="c", services=["web"])["services"][0]
    sent = {"healthCheckGracePeriodSeconds": 30, "taskDefinition": made["second"], "runningCount": 2}
    assert subset(service, sent) == sent
    assert service["deploymentConfiguration"]["deploymentCircuitBreaker"]["rollback"]
    assert [one["rolloutState"] for one in service["deployments"]] == ["COMPLETED"]
    listed = client.list_service_deployments(**where)["serviceDeployments"]
    assert [one["status"] for one in listed] == ["SUCCESSFUL", "SUCCESSFUL"]
    newest = listed[0]["serviceDeploymentArn"]
    described = client.describe_service_deployments(serviceDeploymentArns=[newest])["serviceDeployments"][0]
    target = described["targetServiceRevision"]["arn"]
    revisions = client.describe_service_revisions(serviceRevisionArns=[target])["serviceRevisions"]
    assert [one["taskDefinition"] for one in revisions] == [made["second"]]
    rig.client("logs").create_log_group(logGroupName="web")
    rig.admin("ecs/fail-next-deployment", log=["it broke"])
    client.update_service(**where, forceNewDeployment=True)
    rig.admin("clock", advance_seconds=10)
    client.describe_services(cluster="c", services=["web"])
    arns = client.list_tasks(cluster="c", serviceName="web", desiredStatus="STOPPED")["taskArns"]
    assert [one["containers"][0]["exitCode"] for one in client.describe_tasks(cluster="c", tasks=arns)["tasks"]] == [1]
    client.update_service(**where, desiredCount=0)
    client.delete_service(**where)


def autoscaling(rig: Rig) -> None:
    """A scalable target with tags."""
    service_that_runs(rig)
    client = rig.client("application-autoscaling")
    target = {
        "ServiceNamespace": "ecs",
        "ResourceId": "service/c/web",
        "ScalableDimension": "ecs:service:DesiredCount",
    }
    arn = client.register_scalable_target(**target, MinCapacity=1, MaxCapacity=4, Tags={"stack": "dev"})[
        "ScalableTargetARN"
    ]
    client.tag_resource(ResourceARN=arn, Tags={"team": "a"})
    client.untag_resource(ResourceARN=arn, TagKeys=["team"])
    assert client.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"stack": "dev"}
    client.deregister_scalable_target(**target)


def codebuild(rig: Rig) -> None:
    """A build that pushes the image it was told to."""
    rig.client("ecr").create_repository(repositoryName="app")
    client = rig.client("codebuild")
    client.create_project(
        name="image",
        source={"type": "S3", "location": "data/source.zip"},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "ARM_CONTAINER", "image": "i", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole="arn:aws:iam::123456789012:role/build-image",
    )
    variables = [{"name": "IMAGE_REPO_NAME", "value": "app"}, {"name": "IMAGE_TAG", "value": "v1"}]
    build = client.start_build(projectName="image", environmentVariablesOverride=variables)["build"]
    assert client.batch_get_builds(ids=[build["id"]])["builds"][0]["buildStatus"] == "SUCCEEDED"
    images = rig.client("ecr").batch_get_image(repositoryName="app", imageIds=[{"imageTag": "v1"}])["images"]
    assert images[0]["imageId"]["imageDigest"].startswith("sha256:")


def ec2(rig: Rig) -> None:
    """A rule between groups, a flow log with its options, and a NAT gateway that lets go of its address."""
    client = rig.client("ec2")
    vpc = client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = client.create_security_group(GroupName="app", Description="app", VpcId=vpc)["GroupId"]
    pair = {"GroupId": group, "Description": "balancer"}
    ports = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}
    permissions = [{**ports, "UserIdGroupPairs": [pair]}]
    rule = client.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)["SecurityGroupRules"][0]
    client.modify_security_group_rules(
        GroupId=group,
        SecurityGroupRules=[
            {
                "SecurityGroupRuleId": rule["SecurityGroupRuleId"],
                "SecurityGroupRule": {**ports, "ReferencedGroupId": group, "Description": "changed"},
            }
        ],
    )
    ids = [rule["SecurityGroupRuleId"]]
    found = client.describe_security_group_rules(SecurityGroupRuleIds=ids)["SecurityGroupRules"]
    assert [one["Description"] for one in found] == ["changed"]
    rig.client("s3").create_bucket(Bucket="flows")
    options = {"FileFormat": "parquet", "HiveCompatiblePartitions": True, "PerHourPartition": True}
    client.create_flow_logs(
        ResourceIds=[vpc],
        ResourceType="VPC",
        TrafficType="ALL",
        LogDestinationType="s3",
        LogDestination="arn:aws:s3:::flows",
        DestinationOptions=options,
    )
    assert client.describe_flow_logs()["FlowLogs"][0]["DestinationOptions"] == options
    subnet = client.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    where = {"SubnetId": subnet, "AllocationId": client.allocate_address(Domain="vpc")["AllocationId"]}
    for _ in range(2):  # the address is free again once the gateway is gone
        gateway = client.create_nat_gateway(**where)["NatGateway"]["NatGatewayId"]
        client.delete_nat_gateway(NatGatewayId=gateway)


def elasticloadbalancing(rig: Rig) -> None:
    """A balancer that is deleted."""
    ec2_client, client = rig.client("ec2"), rig.client("elbv2")
    vpc = ec2_client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2_client.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"us-east-1{zone}")
        for number, zone in enumerate("ab")
    ]
    ids = [one["Subnet"]["SubnetId"] for one in subnets]
    arn = client.create_load_balancer(Name="web", Subnets=ids)["LoadBalancers"][0]["LoadBalancerArn"]
    client.delete_load_balancer(LoadBalancerArn=arn)
    assert client.describe_load_balancers()["LoadBalancers"] == []


def logs(rig: Rig) -> None:
    """Log groups of both classes."""
    client = rig.client("logs")
    client.create_log_group(logGroupName="cheap", logGroupClass="INFREQUENT_ACCESS")
    client.create_log_group(logGroupName="usual")
    found = client.describe_log_groups()["logGroups"]
    assert [one["logGroupClass"] for one in found] == ["INFREQUENT_ACCESS", "STANDARD"]
    client.delete_log_group(logGroupName="cheap")


def elasticache(rig: Rig) -> None:
    """A serverless cache and a replicated one, with their subnets, users and tags."""
    client, ec2_client = rig.client("elasticache"), rig.client("ec2")
    vpc = ec2_client.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet, other = (
        ec2_client.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24")["Subnet"]["SubnetId"] for number in (0, 1)
    )
    user = {"UserId": "app", "UserName": "app", "Engine": "valkey", "AccessString": "on ~* +@all"}
    client.create_user(**user, AuthenticationMode={"Type": "iam"})
    client.modify_user(UserId="app", AccessString="on ~* +get")
    client.create_user_group(UserGroupId="people", Engine="valkey", UserIds=["app"])
    client.modify_user_group(UserGroupId="people", UserIdsToRemove=["app"])
    client.modify_user_group(UserGroupId="people", UserIdsToAdd=["app"])
    described = client.describe_users(UserId="app")["Users"][0]
    assert described["UserGroupIds"] == ["people"]
    assert described["Authentication"] == {"Type": "iam"}
    names = {"ServerlessCacheName": "cache"}
    made = client.create_serverless_cache(**names, Engine="valkey", SubnetIds=[subnet], UserGroupId="people")
    client.modify_serverless_cache(**names, Description="limits")
    found = client.describe_serverless_caches(**names)["ServerlessCaches"][0]
    assert (found["Description"], found["Status"]) == ("limits", "available")
    arn = made["ServerlessCache"]["ARN"]
    client.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    client.remove_tags_from_resource(ResourceName=arn, TagKeys=["a"])
    assert client.list_tags_for_resource(ResourceName=arn)["TagList"] == [{"Key": "b", "Value": "2"}]
    assert client.describe_user_groups(UserGroupId="people")["UserGroups"][0]["ServerlessCaches"] == ["cache"]
    client.delete_serverless_cache(**names)

    where = {"CacheSubnetGroupName": "private"}
    client.create_cache_subnet_group(**where, CacheSubnetGroupDescription="d", SubnetIds=[subnet])
    client.modify_cache_subnet_group(**where, SubnetIds=[subnet, other])
    assert len(client.describe_cache_subnet_groups(**where)["CacheSubnetGroups"][0]["Subnets"]) == 2
    group = {"ReplicationGroupId": "nodes"}
    client.create_replication_group(
        **group,
        **where,
        ReplicationGroupDescription="d",
        Engine="valkey",
        EngineVersion="8.0",
        NumCacheClusters=2,
        AutomaticFailoverEnabled=True,
        TransitEncryptionEnabled=True,
        UserGroupIds=["people"],
    )
    client.modify_replication_group(**group, SnapshotRetentionLimit=3)
    kept = client.describe_replication_groups(**group)["ReplicationGroups"][0]
    assert (kept["SnapshotRetentionLimit"], kept["AutomaticFailover"]) == (3, "enabled")
    members = client.describe_cache_clusters()["CacheClusters"]
    assert {one["EngineVersion"] for one in members} == {"8.0.0"}
    client.delete_replication_group(**group)
    client.delete_cache_subnet_group(**where)
    client.delete_user_group(UserGroupId="people")
    client.delete_user(UserId="app")
