"""ContainerService: one image running as tasks on Fargate, with its roles, network rules, log and scaling."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast

import pulumi
import pulumi_aws as aws

from components import _rollback, _rollout, _scaling, _task, _timeouts
from components._args import Tags, check_known
from components._fargate import Architecture
from components._policies import service_trust
from components._rollout import Rollout
from components._scaler import Scaler
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
    """Seconds for starting the new tasks and draining the old ones in a deployment, 60-14400; default 1800. What a
    rollout waits on purpose comes on top. Known before deployment."""
    wait_for_steady_state: NotRequired[bool]
    """End an update only when the service is steady; default true. It is steady after a rollback too: set it to false
    where something else looks at the outcome. Known before deployment."""
    rollout: NotRequired[Rollout]
    """How a new version takes over; default `rolling`. `canary` and `linear` need the target group's
    `alternate_target_group_arn` and `listener_rule_arn`. Known before deployment."""
    rollout_percent: NotRequired[int]
    """Share of requests that a canary starts with, 1-50, or that each linear step adds, 3-50; default 10. Known before
    deployment."""
    rollout_step_minutes: NotRequired[int]
    """Minutes that the canary, or each linear step, is watched, 0-1440; default 5. Known before deployment."""
    bake_minutes: NotRequired[int]
    """Minutes that the old tasks are kept after all requests moved, 0-1440; default 5. Not for `rolling`, where ECS
    computes it. Known before deployment."""
    rollback_latency_p99_ms: NotRequired[int]
    """A deployment is rolled back when one in a hundred requests takes longer, 100-3600000 ms; default 60000. Known
    before deployment."""
    port: NotRequired[pulumi.Input[int]]
    """Port that the container listens on; default 8080."""
    health_check_command: NotRequired[Sequence[str]]
    """Command in the container that fails when the app is dead; default `CMD python -m app health`."""
    target_group_arn: NotRequired[pulumi.Input[str]]
    """Target group, with `load_balancer_security_group_id`. Whether it is set is known before deployment."""
    load_balancer_security_group_id: NotRequired[pulumi.Input[str]]
    """Security group of the balancer: the only one that may connect to the tasks."""
    load_balancer_suffix: NotRequired[pulumi.Input[str]]
    """`LoadBalancer` dimension of the balancer, with `target_group_suffixes`: a deployment whose tasks stay unready or
    slow is rolled back. Whether it is set is known before deployment."""
    target_group_suffixes: NotRequired[Sequence[pulumi.Input[str]]]
    """`TargetGroup` dimensions of every group the tasks may be in. Their number is known before deployment."""
    alternate_target_group_arn: NotRequired[pulumi.Input[str]]
    """Second target group, with `listener_rule_arn`: a canary or linear rollout starts its tasks in the one that is
    empty. Not read when `rolling`."""
    listener_rule_arn: NotRequired[pulumi.Input[str]]
    """Listener rule that a canary or linear rollout shifts requests with; ECS rewrites its actions."""
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
    deployment_seconds: pulumi.Output[int]
    """Seconds after which a deployment has failed, whatever its rollout waits on purpose included."""

    def __init__(self, name: str, args: ContainerServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = cast(ContainerServiceArgs, check_service("ContainerService", args, ContainerServiceArgs))
        for connection in args.get("connections", ()):
            check_known("Connection", connection, ConnectionArgs)
        super().__init__("prodkit:index:ContainerService", name, {}, opts)
        self._name = name
        self._args = args
        self._tags: Tags = args.get("tags", {})
        self._child = pulumi.ResourceOptions(parent=self)
        self._tasks = TaskResources(self, name, self._tags)
        shift = (args["rollout"], args["rollout_percent"], args["rollout_step_minutes"], args["bake_minutes"])
        self._deployment = _rollout.configuration(*shift)
        self._patience = _rollout.deployment_seconds(args["deployment_seconds"], *shift)

        self.cluster_arn, self.cluster_name = self._cluster()
        group = self._security_group()
        log_group = self._tasks.log_group(args["log_retention_days"], args.get("logs_key_arn"))
        roles = self._tasks.roles(log_group, args.get("policies", {}), args.get("execution_policies", {}))
        definition = self._task_definition(log_group, roles)
        service = self._service(definition, group)
        Scaler(name, args, self.cluster_name, service.name, self._child)

        self.service_name = service.name
        self.security_group_id = group.id
        self.log_group_name = log_group.name
        self.task_definition_arn = definition.arn
        self.task_role_arn = roles[0].arn
        self.deployment_seconds = pulumi.Output.from_input(self._patience)
        self.register_outputs(
            {
                "cluster_arn": self.cluster_arn,
                "cluster_name": self.cluster_name,
                "service_name": self.service_name,
                "security_group_id": self.security_group_id,
                "log_group_name": self.log_group_name,
                "task_definition_arn": self.task_definition_arn,
                "task_role_arn": self.task_role_arn,
                "deployment_seconds": self.deployment_seconds,
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
            architecture=args["architecture"],
            roles=roles,
            keep_revisions=True,
        )

    def _service(self, definition: aws.ecs.TaskDefinition, group: aws.ec2.SecurityGroup) -> aws.ecs.Service:
        args = self._args
        targets = self._targets()
        patience = f"{self._patience}s"
        rolling = args["rollout"] is Rollout.ROLLING
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
            deployment_configuration=self._deployment,
            # ECS has the breaker for rolling deployments only; alarms guard every kind.
            deployment_circuit_breaker={"enable": rolling, "rollback": rolling},
            alarms={"enable": True, "rollback": True, "alarm_names": self._rollback_alarms()},
            availability_zone_rebalancing="ENABLED",
            enable_ecs_managed_tags=True,
            propagate_tags="SERVICE",
            enable_execute_command=False,
            wait_for_steady_state=args["wait_for_steady_state"],
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

    def _targets(self) -> list[aws.ecs.ServiceLoadBalancerArgsDict] | None:
        args = self._args
        group = args.get("target_group_arn")
        if group is None:
            return None
        target: aws.ecs.ServiceLoadBalancerArgsDict = {
            "target_group_arn": group,
            "container_name": _task.CONTAINER_NAME,
            "container_port": args["port"],
        }
        alternate, rule = args.get("alternate_target_group_arn"), args.get("listener_rule_arn")
        if args["rollout"] is not Rollout.ROLLING and alternate is not None and rule is not None:
            may = {"traffic": _rollout.shift_policy([group, alternate], rule)}
            trust = service_trust("ecs.amazonaws.com", self._tasks.account, self._tasks.in_ecs)
            target["advanced_configuration"] = {
                "alternate_target_group_arn": alternate,
                "production_listener_rule": rule,
                "role_arn": self._tasks.role("shift", "ECS in deployments", may, trust).arn,
            }
        return [target]

    def _rollback_alarms(self) -> list[pulumi.Output[str]]:
        """Names of the alarms that end a deployment; ECS is who acts on them."""
        args, groups = self._args, self._args.get("target_group_suffixes", ())
        who = (args["stack"], args["service"], args["rollback_latency_p99_ms"])
        return [
            aws.cloudwatch.MetricAlarm(f"{self._name}-{a.name}", **a.inputs(), tags=self._tags, opts=self._child).name
            for a in _rollback.alarms(*who, args.get("load_balancer_suffix"), groups)
        ]
