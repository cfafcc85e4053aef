"""What every task on Fargate needs around its container: a log, two roles, a way to HTTPS, and its definition."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_aws as aws

from components import _task
from components._args import Tags, named
from components._fargate import Architecture
from components._policies import Document, grant, service_trust, statement


class TaskResources:
    """Makes children of one component, named after it."""

    region: pulumi.Output[str]
    before_tasks: list[pulumi.Resource]
    """Grants and rules that must exist before a task starts."""

    def __init__(self, component: pulumi.ComponentResource, name: str, tags: Tags) -> None:
        self._component = component
        self._name = name
        self._tags = tags
        self._child = pulumi.ResourceOptions(parent=component)
        self._asked = pulumi.InvokeOptions(parent=component)
        self.region = aws.get_region_output(opts=self._asked).region
        self.account = aws.get_caller_identity_output(opts=self._asked).account_id
        self.partition = aws.get_partition_output(opts=self._asked).partition
        self.in_ecs = pulumi.Output.format("arn:{0}:ecs:{1}:{2}:*", self.partition, self.region, self.account)
        self.before_tasks = []

    def log_group(
        self, retention_days: pulumi.Input[int], key_arn: pulumi.Input[str] | None
    ) -> aws.cloudwatch.LogGroup:
        """The tasks' log."""
        return aws.cloudwatch.LogGroup(
            f"{self._name}-log",
            retention_in_days=retention_days,
            kms_key_id=key_arn,
            tags=self._tags,
            opts=self._child,
        )

    def security_group(self, description: str, vpc_id: pulumi.Input[str]) -> aws.ec2.SecurityGroup:
        """The tasks' group: nobody in, HTTPS anywhere out."""
        group = aws.ec2.SecurityGroup(
            f"{self._name}-group",
            description=description,
            vpc_id=vpc_id,
            tags=named(self._tags, f"{self._name}-group"),
            opts=self._child,
        )
        https = aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-https-out",
            security_group_id=group.id,
            description="OpenAI and AWS, whose addresses change",
            cidr_ipv4="0.0.0.0/0",
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            tags=self._tags,
            opts=self._child,
        )
        self.before_tasks.append(https)
        return group

    def role(
        self,
        kind: str,
        who: str,
        policies: Mapping[str, pulumi.Input[str]],
        trust: Document | None = None,
    ) -> aws.iam.Role:
        """A role with its grants; `trust` defaults to ECS acting for tasks of this account and region."""
        role = aws.iam.Role(
            f"{self._name}-{kind}",
            description=f"What {who} of {self._name} may do",
            assume_role_policy=pulumi.Output.json_dumps(trust or self._tasks_trust()),
            tags=self._tags,
            opts=self._child,
        )
        for label in sorted(policies):
            name = f"{self._name}-{kind}-{label}"
            policy = aws.iam.RolePolicy(name, role=role.name, policy=policies[label], opts=self._child)
            self.before_tasks.append(policy)
        return role

    def roles(
        self,
        log_group: aws.cloudwatch.LogGroup,
        policies: Mapping[str, pulumi.Input[str]],
        execution_policies: Mapping[str, pulumi.Input[str]],
    ) -> tuple[aws.iam.Role, aws.iam.Role]:
        """The role of the running app, and the one of the agent that starts it and writes its log."""
        streams = pulumi.Output.concat(log_group.arn, ":log-stream:*")
        write_log = grant(statement(["logs:CreateLogStream", "logs:PutLogEvents"], streams))
        task = self.role("task", "the app", policies)
        return task, self.role("execution", "the agent", {"log": write_log, **execution_policies})

    def _tasks_trust(self) -> Document:
        return service_trust("ecs-tasks.amazonaws.com", self.account, self.in_ecs)

    def definition(
        self,
        family: str,
        container: dict[str, Any],
        *,
        cpu: int,
        memory_mib: int,
        architecture: Architecture,
        roles: tuple[aws.iam.Role, aws.iam.Role],
        keep_revisions: bool = False,
    ) -> aws.ecs.TaskDefinition:
        """The task definition with one container, as `_task.container` makes it; `roles` as from `roles`.

        `keep_revisions` for a service: a rollback starts tasks of the revision before, and ECS starts none of one that
        was deregistered.
        """
        task_role, execution_role = roles
        return aws.ecs.TaskDefinition(
            f"{self._name}-tasks",
            # A name of its own: a generated one would begin a new family with every revision.
            family=family,
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(cpu),
            memory=str(memory_mib),
            runtime_platform={"cpu_architecture": architecture.value, "operating_system_family": "LINUX"},
            task_role_arn=task_role.arn,
            execution_role_arn=execution_role.arn,
            container_definitions=pulumi.Output.json_dumps([container]),
            volumes=[{"name": _task.TMP_VOLUME}],
            skip_destroy=keep_revisions,
            tags=self._tags,
            opts=self._child,
        )
