"""Ways to AWS services that do not lead over the Internet."""

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from components._args import Tags, named
from components._policies import account_only, own_account


def gateway_endpoints(
    parent: pulumi.Resource, name: str, vpc: aws.ec2.Vpc, tables: Sequence[aws.ec2.RouteTable], tags: Tags | None
) -> None:
    """The free gateways to S3 and DynamoDB, for every route table of the network."""
    invoke = pulumi.InvokeOptions(parent=parent)
    region = aws.get_region_output(opts=invoke).region
    account_id = aws.get_caller_identity_output(opts=invoke).account_id
    for service in ("s3", "dynamodb"):
        aws.ec2.VpcEndpoint(
            f"{name}-{service}",
            vpc_id=vpc.id,
            vpc_endpoint_type="Gateway",
            service_name=pulumi.Output.format("com.amazonaws.{0}.{1}", region, service),
            route_table_ids=[table.id for table in tables],
            policy=pulumi.Output.json_dumps(account_only(service, account_id, region)),
            tags=named(tags, f"{name}-{service}"),
            opts=pulumi.ResourceOptions(parent=parent),
        )


def interface_endpoints(
    parent: pulumi.Resource,
    name: str,
    vpc: aws.ec2.Vpc,
    services: Sequence[str],
    subnet_ids: pulumi.Output[Sequence[str]],
    tags: Tags | None,
) -> None:
    """Private addresses of services (short names such as `ecr.api`) in each of the subnets, behind one group."""
    invoke = pulumi.InvokeOptions(parent=parent)
    region = aws.get_region_output(opts=invoke).region
    account_id = aws.get_caller_identity_output(opts=invoke).account_id
    group = aws.ec2.SecurityGroup(
        f"{name}-endpoints-sg",
        vpc_id=vpc.id,
        description="Private addresses of AWS services",
        tags=named(tags, f"{name}-endpoints"),
        opts=pulumi.ResourceOptions(parent=parent),
    )
    # by address and not by group: private DNS sends every caller of the network here, known to us or not
    aws.vpc.SecurityGroupIngressRule(
        f"{name}-endpoints-in",
        security_group_id=group.id,
        description="HTTPS from this network",
        cidr_ipv4=vpc.cidr_block,
        ip_protocol="tcp",
        from_port=443,
        to_port=443,
        tags=tags,
        opts=pulumi.ResourceOptions(parent=parent),
    )
    for service in services:
        aws.ec2.VpcEndpoint(
            f"{name}-{service.replace('.', '-')}",
            vpc_id=vpc.id,
            vpc_endpoint_type="Interface",
            service_name=pulumi.Output.format("com.amazonaws.{0}.{1}", region, service),
            private_dns_enabled=True,
            subnet_ids=subnet_ids,
            security_group_ids=[group.id],
            policy=pulumi.Output.json_dumps(own_account(service, account_id)),
            tags=named(tags, f"{name}-{service}"),
            opts=pulumi.ResourceOptions(parent=parent),
        )
