"""ContainerService: one image running as tasks on Fargate, with its roles, network rules, log and scaling."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

import pulumi
import pulumi_aws as aws

from components import _metrics, _scaling, _task, _timeouts
from components._args import Tags, check_known, choice
from components._fargate import Architecture
from components._service import check_service
from components._task_resources import TaskResources


class ConnectionArgs(TypedDict):
    """Something in the VPC that the tasks connect to."""

    name: str
    """Short permanent name, unique within the service. Known before deployment."""
    security_group_id: pulumi.Input[str]
    """Its security group, which gets a rule that lets the tasks in."""
    port: pulumi.Input[int]
    """Its TCP port."""


class ContainerServiceArgs(TypedDict):
    """What a ContainerService is made from."""

    stack: str
    """Value of the `Stack` dimension in the app's metrics. Known before deployment."""
    service: str
    """Value of the `Service` dimension in the app's metrics: `web` or `worker`. Known before deployment."""
    vpc_id: pulumi.Input[str]
    """VPC of the tasks."""
    subnet_ids: pulumi.Input[Sequence[pulumi.Input[str]]]
    """Subnets of the tasks, in at least two zones for a service that must survive one."""
    assign_public_ip: pulumi.Input[bool]
    """Give each task a public address: needed in public subnets to reach anything; the group lets no one in by it."""
    image: pulumi.Input[str]
    """Image with its digest, `<repository>@sha256:<64 hex digits>`: a tag can change between two tasks."""
    command: Sequence[str]
    """Command and arguments of the container. Known before deployment."""
    environment: Mapping[str, pulumi.Input[str]]
    """Variables of the container. No secrets: everyone who may read task definitions reads them."""
    policies: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Grants of the running app, name to IAM policy (JSON); default none. Names known before deployment."""
    execution_policies: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Grants of the agent that starts tasks, such as pulling a private image: name to IAM policy (JSON); default none,
    enough for public images. Names known before deployment."""
    cpu: int
    """CPU units of a task, 1024 a vCPU; one of Fargate's sizes. Known before deployment."""
    memory_mib: int
    """Memory of a task in MiB; one that Fargate offers for `cpu`. Known before deployment."""
    architecture: NotRequired[Architecture]
    """Processor of the tasks; default `ARM64`."""
    min_tasks: int
    """Fewest tasks, 1-1000; at least 2 to survive the loss of a task or zone. Known before deployment."""
    max_tasks: int
    """Most tasks, `min_tasks`-1000: what the OpenAI quota can feed. Known before deployment."""
    spot_percent: NotRequired[int]
    """Share of tasks on Spot, 0-100; default 0. Spot tasks cost about 70 % less and may be stopped with two minutes'
    notice: streams longer than that are cut. Known before deployment."""
    target_in_flight_per_task: NotRequired[int]
    """Requests in flight that one task carries well; this or `target_backlog_per_task`. Known before deployment."""
    target_backlog_per_task: NotRequired[int]
    """Waiting messages for each task; the service grows and shrinks to keep it. Needs `queue_name` and a cluster with
    Container Insights. Known before deployment."""
    queue_name: NotRequired[pulumi.Input[str]]
    """SQS queue that the tasks work on."""
    stop_timeout_seconds: pulumi.Input[int]
    """Seconds between SIGTERM and SIGKILL, 2-120; longer than the app's own drain."""
    deployment_seconds: NotRequired[int]
    """Seconds after which a deployment has failed, 60-14400; default 1800. Known before deployment."""
    port: NotRequired[pulumi.Input[int]]
    """Port that the container listens on; default 8080."""
    health_check_command: NotRequired[Sequence[str]]
    """Command in the container that fails when the app is dead; default `CMD python -m app health`."""
    target_group_arn: NotRequired[pulumi.Input[str]]
    """Target group, with `load_balancer_security_group_id`. Whether it is set is known before deployment."""
    load_balancer_security_group_id: NotRequired[pulumi.Input[str]]
    """Security group of the balancer: the only one that may connect to the tasks."""
    connections: NotRequired[Sequence[ConnectionArgs]]
    """What the tasks connect to inside of the VPC besides HTTPS anywhere; default nothing. Known before deployment."""
    cluster_arn: NotRequired[pulumi.Input[str]]
    """ECS cluster to run in, with `cluster_name`; default: a new one. Whether it is set is known before deployment."""
    cluster_name: NotRequired[pulumi.Input[str]]
    """Name of that cluster."""
    log_retention_days: NotRequired[pulumi.Input[int]]
    """Days log lines are kept, one of CloudWatch's periods, 1-3653; default 30."""
    logs_key_arn: NotRequired[pulumi.Input[str]]
    """KMS key of the log group; default: CloudWatch's own key."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class ContainerService(pulumi.ComponentResource):
    """A Fargate service that only its balancer can reach, that scales itself and rolls back bad deployments."""

    cluster_arn: pulumi.Output[str]
    """Cluster of the service; another service may run in it."""
    cluster_name: pulumi.Output[str]
    """Name of the cluster."""
    service_name: pulumi.Output[str]
    """Name of the service."""
    security_group_id: pulumi.Output[str]
    """Security group of the tasks."""
    log_group_name: pulumi.Output[str]
    """Log group of the tasks."""
    task_definition_arn: pulumi.Output[str]
    """The revision of the task definition that this deployment runs."""
    task_role_arn: pulumi.Output[str]
    """Role of the running app."""

    def __init__(self, name: str, args: ContainerServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = cast(ContainerServiceArgs, check_service("ContainerService", args, ContainerServiceArgs))
        for connection in args.get("connections", ()):
            check_known("Connection", connection, ConnectionArgs)
        architecture = args.get("architecture", Architecture.ARM64)
        self._architecture = choice("ContainerService", "architecture", architecture, Architecture)
        super().__init__("prodkit:index:ContainerService", name, {}, opts)
        self._name = name
        self._args = args
        self._tags: Tags = args.get("tags", {})
        self._child = pulumi.ResourceOptions(parent=self)
        self._tasks = TaskResources(self, name, self._tags)

        self.cluster_arn, self.cluster_name = self._cluster()
        group = self._security_group()
        log_group = self._tasks.log_group(args["log_retention_days"], args.get("logs_key_arn"))
        roles = self._tasks.roles(log_group, args.get("policies", {}), args.get("execution_policies", {}))
        definition = self._task_definition(log_group, roles)
        service = self._service(definition, group)
        self._scale(service)

        self.service_name = service.name
        self.security_group_id = group.id
        self.log_group_name = log_group.name
        self.task_definition_arn = definition.arn
        self.task_role_arn = roles[0].arn
        self.register_outputs(
            {
                "cluster_arn": self.cluster_arn,
                "cluster_name": self.cluster_name,
                "service_name": self.service_name,
                "security_group_id": self.security_group_id,
                "log_group_name": self.log_group_name,
                "task_definition_arn": self.task_definition_arn,
                "task_role_arn": self.task_role_arn,
            }
        )

    def _cluster(self) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        arn, adopted = self._args.get("cluster_arn"), self._args.get("cluster_name")
        if arn is not None and adopted is not None:
            return pulumi.Output.from_input(arn), pulumi.Output.from_input(adopted)
        cluster = aws.ecs.Cluster(
            f"{self._name}-cluster",
            settings=[{"name": "containerInsights", "value": "enabled"}],
            tags=self._tags,
            opts=self._child,
        )
        providers = aws.ecs.ClusterCapacityProviders(
            f"{self._name}-capacity",
            cluster_name=cluster.name,
            capacity_providers=["FARGATE", "FARGATE_SPOT"],
            default_capacity_provider_strategies=[{"capacity_provider": "FARGATE", "weight": 1, "base": 0}],
            opts=self._child,
        )
        # A service can only ask for a capacity provider that its cluster has, so whoever runs here waits for both.
        both = pulumi.Output.all(cluster.arn, providers.cluster_name)
        return both.apply(lambda known: str(known[0])), both.apply(lambda known: str(known[1]))

    def _security_group(self) -> aws.ec2.SecurityGroup:
        """The tasks' group: the balancer in, HTTPS and the named connections out."""
        name, args = self._name, self._args
        description = f"Tasks of {name}: the load balancer in, HTTPS and named connections out"
        group = self._tasks.security_group(description, args["vpc_id"])
        balancer = args.get("load_balancer_security_group_id")
        if balancer is not None:
            self._open("requests", balancer, group.id, args["port"])
        for other in args.get("connections", ()):
            self._open(other["name"], group.id, other["security_group_id"], other["port"])
        return group

    def _open(
        self, what: str, source: pulumi.Input[str], target: pulumi.Input[str], port: pulumi.Input[int] | None
    ) -> None:
        """Lets one security group connect to another, with the rule on either side."""
        for rule, side, owner, other in (
            (aws.vpc.SecurityGroupEgressRule, "out", source, target),
            (aws.vpc.SecurityGroupIngressRule, "in", target, source),
        ):
            made = rule(
                f"{self._name}-{what}-{side}",
                security_group_id=owner,
                description=f"{self._name}: {what}",
                referenced_security_group_id=other,
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                tags=self._tags,
                opts=self._child,
            )
            self._tasks.before_tasks.append(made)

    def _task_definition(
        self, log_group: aws.cloudwatch.LogGroup, roles: tuple[aws.iam.Role, aws.iam.Role]
    ) -> aws.ecs.TaskDefinition:
        args = self._args
        container = _task.container(
            image=args["image"],
            command=args["command"],
            environment=args["environment"],
            port=args["port"],
            health_check_command=args.get("health_check_command", _task.HEALTH_COMMAND),
            stop_timeout_seconds=args["stop_timeout_seconds"],
            log_group=log_group.name,
            region=self._tasks.region,
            stream_prefix=args["service"],
        )
        return self._tasks.definition(
            f"{args['stack']}-{self._name}",
            container,
            cpu=args["cpu"],
            memory_mib=args["memory_mib"],
            architecture=self._architecture,
            roles=roles,
        )

    def _service(self, definition: aws.ecs.TaskDefinition, group: aws.ec2.SecurityGroup) -> aws.ecs.Service:
        args = self._args
        targets: list[aws.ecs.ServiceLoadBalancerArgsDict] | None = None
        group_arn = args.get("target_group_arn")
        if group_arn is not None:
            port = args["port"]
            targets = [{"target_group_arn": group_arn, "container_name": _task.CONTAINER_NAME, "container_port": port}]
        patience = f"{args['deployment_seconds']}s"
        return aws.ecs.Service(
            f"{self._name}-service",
            cluster=self.cluster_arn,
            task_definition=definition.arn,
            desired_count=args["min_tasks"],
            capacity_provider_strategies=_scaling.capacity(args["spot_percent"]),
            # Without it another share of Spot would replace the service instead of deploying it again.
            force_new_deployment=True,
            platform_version="LATEST",
            network_configuration={
                "subnets": args["subnet_ids"],
                "security_groups": [group.id],
                "assign_public_ip": args["assign_public_ip"],
            },
            load_balancers=targets,
            health_check_grace_period_seconds=_timeouts.HEALTH_CHECK_GRACE_SECONDS if targets else None,
            deployment_minimum_healthy_percent=100,
            deployment_maximum_percent=200,
            deployment_circuit_breaker={"enable": True, "rollback": True},
            availability_zone_rebalancing="ENABLED",
            enable_ecs_managed_tags=True,
            propagate_tags="SERVICE",
            enable_execute_command=False,
            # Without waiting, a deployment that ECS rolls back later is reported as a success.
            wait_for_steady_state=True,
            tags=self._tags,
            opts=pulumi.ResourceOptions.merge(
                self._child,
                pulumi.ResourceOptions(
                    depends_on=self._tasks.before_tasks,
                    # Autoscaling owns the count after creation.
                    ignore_changes=["desiredCount"],
                    custom_timeouts=pulumi.CustomTimeouts(create=patience, update=patience, delete=patience),
                ),
            ),
        )

    def _scale(self, service: aws.ecs.Service) -> None:
        args = self._args
        target = aws.appautoscaling.Target(
            f"{self._name}-scale",
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=pulumi.Output.format("service/{0}/{1}", self.cluster_name, service.name),
            min_capacity=args["min_tasks"],
            max_capacity=args["max_tasks"],
            tags=self._tags,
            opts=self._child,
        )
        for what in _scaling.GUARDS:
            self._policy(target, what, tracking=_scaling.guard(what))
        in_flight = args.get("target_in_flight_per_task")
        if in_flight is not None:
            self._follow_requests(target, in_flight)
        per_task, queue = args.get("target_backlog_per_task"), args.get("queue_name")
        if per_task is not None and queue is not None:
            tracking = _scaling.backlog(per_task, queue, self.cluster_name, service.name)
            self._policy(target, "backlog", tracking=tracking)

    def _policy(
        self, target: aws.appautoscaling.Target, what: str, *, tracking: Any = None, steps: Any = None
    ) -> aws.appautoscaling.Policy:
        return aws.appautoscaling.Policy(
            f"{self._name}-{what}",
            policy_type="TargetTrackingScaling" if tracking is not None else "StepScaling",
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            target_tracking_scaling_policy_configuration=tracking,
            step_scaling_policy_configuration=steps,
            opts=self._child,
        )

    def _follow_requests(self, target: aws.appautoscaling.Target, in_flight: int) -> None:
        """Grows within half a minute when tasks are full, shrinks after ten quiet minutes."""
        for rule in _scaling.load_rules(in_flight):
            policy = self._policy(target, rule.policy, steps=rule.steps)
            aws.cloudwatch.MetricAlarm(
                f"{self._name}-{rule.alarm}",
                alarm_description=rule.description,
                namespace=_metrics.NAMESPACE,
                metric_name=_metrics.IN_FLIGHT_REQUESTS,
                dimensions=_metrics.dimensions(self._args["stack"], self._args["service"]),
                statistic="Average",
                comparison_operator=rule.comparison,
                threshold=rule.threshold,
                period=rule.period_seconds,
                evaluation_periods=rule.periods,
                # No data is no reason to change the number of tasks; the heartbeat alarm tells people.
                treat_missing_data="notBreaching",
                alarm_actions=[policy.arn],
                tags=self._tags,
                opts=self._child,
            )
