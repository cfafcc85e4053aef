"""A record of who talked to whom in a network."""

import pulumi
import pulumi_aws as aws

from components._args import Tags, named
from components._policies import grant, service_trust, statement

# the longer of the two there are: one record every ten minutes of a stream is enough, and cheaper
_AGGREGATION_SECONDS = 600


def flow_logs(
    parent: pulumi.Resource,
    name: str,
    vpc_id: pulumi.Input[str],
    retention_days: pulumi.Input[int],
    key_arn: pulumi.Input[str] | None,
    tags: Tags | None,
) -> None:
    """Flow logs of the network in a log group of their own, encrypted with the key, or CloudWatch's own without one."""
    invoke = pulumi.InvokeOptions(parent=parent)
    region = aws.get_region_output(opts=invoke).region
    account_id = aws.get_caller_identity_output(opts=invoke).account_id
    partition = aws.get_partition_output(opts=invoke).partition
    child = pulumi.ResourceOptions(parent=parent)
    group = aws.cloudwatch.LogGroup(
        f"{name}-flows", retention_in_days=retention_days, kms_key_id=key_arn, tags=tags, opts=child
    )
    sources = pulumi.Output.format("arn:{0}:ec2:{1}:{2}:vpc-flow-log/*", partition, region, account_id)
    role = aws.iam.Role(
        f"{name}-flows",
        description="Writes the flow logs of the network",
        assume_role_policy=pulumi.Output.json_dumps(service_trust("vpc-flow-logs.amazonaws.com", account_id, sources)),
        tags=tags,
        opts=child,
    )
    # https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html; without CreateLogGroup and
    # DescribeLogGroups, which only a log group that does not exist would need
    permission = aws.iam.RolePolicy(
        f"{name}-flows",
        role=role.name,
        policy=grant(
            statement(
                ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
                [group.arn, pulumi.Output.format("{0}:*", group.arn)],
                sid="WriteFlows",
            )
        ),
        opts=child,
    )
    aws.ec2.FlowLog(
        f"{name}-flows",
        vpc_id=vpc_id,
        traffic_type="ALL",
        max_aggregation_interval=_AGGREGATION_SECONDS,
        log_destination=group.arn,
        iam_role_arn=role.arn,
        tags=named(tags, name),
        opts=pulumi.ResourceOptions(parent=parent, depends_on=[permission]),
    )
