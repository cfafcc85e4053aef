"""ScheduledJob: a task of the image that a schedule starts, and alarms for when it fails or does not run at all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components import _job_alarms, _task
from components._args import (
    LOG_RETENTION_DAYS,
    Tags,
    between,
    check_known,
    checked,
    choice,
    one_of,
)
from components._fargate import Architecture, check_size
from components._policies import Conditions, deny_without_tls, document, grant, service_trust, statement, use_key
from components._service import image_problem
from components._task_resources import TaskResources

# How long EventBridge goes on trying to start the task, when ECS is out of capacity say, before the dead letter.
_RETRIES = 20
_RETRY_SECONDS = 3600
_STOP_SECONDS = 30
# the longest that SQS keeps a message
_DEAD_LETTER_SECONDS = 14 * 24 * 3600


class WatchArgs(TypedDict):
    """A measurement that the job reports in each run, and what is too much of it."""

    name: str
    """Short permanent name of the alarm. Known before deployment."""
    metric: str
    """The metric, in the app's namespace. Known before deployment."""
    over: float
    """An alarm above this value. Known before deployment."""
    description: str
    """What the alarm tells people. Known before deployment."""


class ScheduledJobArgs(TypedDict):
    """What a ScheduledJob is made from."""

    stack: str
    """Value of the `Stack` dimension in the job's metrics. Known before deployment."""
    job: str
    """Value of the `Service` dimension in the job's metrics. Known before deployment."""
    cluster_arn: pulumi.Input[str]
    """ECS cluster to run in."""
    vpc_id: pulumi.Input[str]
    """VPC of the task."""
    subnet_ids: pulumi.Input[Sequence[pulumi.Input[str]]]
    """Subnets of the task."""
    assign_public_ip: pulumi.Input[bool]
    """Give the task a public address: needed in public subnets to reach anything; the group lets no one in by it."""
    image: pulumi.Input[str]
    """Image with its digest, `<repository>@sha256:<64 hex digits>`."""
    command: Sequence[str]
    """Command and arguments of the container. Known before deployment."""
    environment: Mapping[str, pulumi.Input[str]]
    """Variables of the container. No secrets: everyone who may read task definitions reads them."""
    policies: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Grants of the running job, name to IAM policy (JSON); default none. Names known before deployment."""
    execution_policies: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Grants of the agent that starts the task, such as pulling a private image: name to IAM policy (JSON); default
    none. Names known before deployment."""
    cpu: NotRequired[int]
    """CPU units of the task, 1024 a vCPU; default 256. Known before deployment."""
    memory_mib: NotRequired[int]
    """Memory of the task in MiB, one that Fargate offers for `cpu`; default 512. Known before deployment."""
    architecture: NotRequired[Architecture]
    """Processor of the task; default `ARM64`."""
    every_hours: NotRequired[int]
    """Hours from one start to the next, 1-144; default 24. More would be longer than an alarm can look back. Known
    before deployment."""
    window_minutes: NotRequired[int]
    """Minutes within which a start may be put off, so that not everybody's jobs start at once, 1-720 and less than the
    time between two; default 15. Known before deployment."""
    watch: NotRequired[Sequence[WatchArgs]]
    """Measurements of the job with an alarm each; default none. Known before deployment."""
    key_arn: pulumi.Input[str]
    """KMS key of the dead-letter queue."""
    topic_arn: pulumi.Input[str]
    """SNS topic of the alarms."""
    log_retention_days: NotRequired[pulumi.Input[int]]
    """Days log lines are kept, one of CloudWatch's periods, 1-3653; default 30."""
    logs_key_arn: NotRequired[pulumi.Input[str]]
    """KMS key of the log group; default: CloudWatch's own key."""
    tags: NotRequired[Mapping[str, pulumi.Input[str]]]
    """Tags of every resource."""


class ScheduledJob(pulumi.ComponentResource):
    """A task that runs at regular times: what could not be started is kept, and a run that is missing is an alarm."""

    task_definition_arn: pulumi.Output[str]
    """The revision of the task definition that the schedule starts."""
    security_group_id: pulumi.Output[str]
    """Security group of the task."""
    schedule_name: pulumi.Output[str]
    """Name of the schedule."""
    dead_letter_name: pulumi.Output[str]
    """Queue of starts that failed, its metric dimension."""
    log_group_name: pulumi.Output[str]
    """Log group of the task."""
    task_role_arn: pulumi.Output[str]
    """Role of the running job."""

    def __init__(self, name: str, args: ScheduledJobArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("ScheduledJob", args, ScheduledJobArgs)
        for watched in args.get("watch", ()):
            check_known("Watch", watched, WatchArgs)
        cpu, memory = int(args.get("cpu", 256)), int(args.get("memory_mib", 512))
        try:
            check_size(cpu, memory)
        except ValueError as problem:
            raise ValueError(f"ScheduledJob: {problem}") from None
        hours, window = _times(args)
        image = checked("ScheduledJob", "image", args["image"], image_problem)
        days = checked(
            "ScheduledJob",
            "log_retention_days",
            args.get("log_retention_days", 30),
            one_of(LOG_RETENTION_DAYS, "days"),
        )
        architecture = choice(
            "ScheduledJob", "architecture", args.get("architecture", Architecture.ARM64), Architecture
        )
        super().__init__("prodkit:index:ScheduledJob", name, {}, opts)
        self._name = name
        self._args = args
        self._tags: Tags = args.get("tags", {})
        self._child = pulumi.ResourceOptions(parent=self)
        self._tasks = TaskResources(self, name, self._tags)

        group = self._tasks.security_group(f"Task of {name}: nobody in, HTTPS out", args["vpc_id"])
        log_group = self._tasks.log_group(days, args.get("logs_key_arn"))
        roles = self._tasks.roles(log_group, args.get("policies", {}), args.get("execution_policies", {}))
        container = _task.container(
            image=image,
            command=args["command"],
            environment=args["environment"],
            port=None,
            health_check_command=None,
            stop_timeout_seconds=_STOP_SECONDS,
            log_group=log_group.name,
            region=self._tasks.region,
            stream_prefix=args["job"],
        )
        definition = self._tasks.definition(
            f"{args['stack']}-{name}",
            container,
            cpu=cpu,
            memory_mib=memory,
            architecture=architecture,
            roles=roles,
        )
        dead = self._dead_letters()
        schedule = self._schedule(definition, group, roles, dead, hours, window)
        self._alarms(dead, hours + math.ceil((60 * window + _RETRY_SECONDS) / 3600))

        self.task_definition_arn = definition.arn
        self.security_group_id = group.id
        self.schedule_name = schedule.name
        self.dead_letter_name = dead.name
        self.log_group_name = log_group.name
        self.task_role_arn = roles[0].arn
        self.register_outputs(
            {
                "task_definition_arn": self.task_definition_arn,
                "security_group_id": self.security_group_id,
                "schedule_name": self.schedule_name,
                "dead_letter_name": self.dead_letter_name,
                "log_group_name": self.log_group_name,
                "task_role_arn": self.task_role_arn,
            }
        )

    def _dead_letters(self) -> aws.sqs.Queue:
        dead = aws.sqs.Queue(
            f"{self._name}-dead",
            kms_master_key_id=self._args["key_arn"],
            message_retention_seconds=_DEAD_LETTER_SECONDS,
            tags=self._tags,
            opts=self._child,
        )
        aws.sqs.QueuePolicy(
            f"{self._name}-dead-policy",
            queue_url=dead.url,
            policy=pulumi.Output.json_dumps(document(deny_without_tls(["sqs:*"], dead.arn))),
            opts=self._child,
        )
        return dead

    def _schedule(
        self,
        definition: aws.ecs.TaskDefinition,
        group: aws.ec2.SecurityGroup,
        roles: tuple[aws.iam.Role, aws.iam.Role],
        dead: aws.sqs.Queue,
        hours: int,
        window: int,
    ) -> aws.scheduler.Schedule:
        args = self._args
        schedules = aws.scheduler.ScheduleGroup(f"{self._name}-schedules", tags=self._tags, opts=self._child)
        # The group's ARN and no narrower one: the schedule itself cannot exist before its role does.
        trust = service_trust("scheduler.amazonaws.com", self._tasks.account, schedules.arn)
        starter = self._tasks.role("start", "the schedule", {"run": self._may_start(definition, roles, dead)}, trust)
        return aws.scheduler.Schedule(
            f"{self._name}-schedule",
            description=f"Starts {args['job']} of stack {args['stack']}",
            group_name=schedules.name,
            # An hour is written in minutes, which are plural.
            schedule_expression=f"rate({hours} hours)" if hours > 1 else "rate(60 minutes)",
            flexible_time_window={"mode": "FLEXIBLE", "maximum_window_in_minutes": window},
            target={
                "arn": args["cluster_arn"],
                "role_arn": starter.arn,
                "ecs_parameters": {
                    "task_definition_arn": definition.arn,
                    "task_count": 1,
                    "launch_type": "FARGATE",
                    "platform_version": "LATEST",
                    "enable_ecs_managed_tags": True,
                    "enable_execute_command": False,
                    "propagate_tags": "TASK_DEFINITION",
                    "network_configuration": {
                        "subnets": args["subnet_ids"],
                        "security_groups": [group.id],
                        "assign_public_ip": args["assign_public_ip"],
                    },
                },
                "retry_policy": {
                    "maximum_retry_attempts": _RETRIES,
                    "maximum_event_age_in_seconds": _RETRY_SECONDS,
                },
                "dead_letter_config": {"arn": dead.arn},
            },
            opts=pulumi.ResourceOptions.merge(self._child, pulumi.ResourceOptions(depends_on=self._tasks.before_tasks)),
        )

    def _may_start(
        self, definition: aws.ecs.TaskDefinition, roles: tuple[aws.iam.Role, aws.iam.Role], dead: aws.sqs.Queue
    ) -> pulumi.Output[str]:
        """The schedule's grant: this family in this cluster, with these two roles; and a letter where that failed."""
        tasks = self._tasks
        here: Conditions = {"ArnEquals": {"ecs:cluster": self._args["cluster_arn"]}}
        # Any revision: the schedule is moved to a new one a moment before or after this grant.
        family = pulumi.Output.format(
            "arn:{0}:ecs:{1}:{2}:task-definition/{3}:*", tasks.partition, tasks.region, tasks.account, definition.family
        )
        # The cluster is part of a task's ARN; it is no condition key of ecs:TagResource.
        cluster = pulumi.Output.from_input(self._args["cluster_arn"])
        started = cluster.apply(lambda arn: f"{arn.replace(':cluster/', ':task/')}/*")
        return grant(
            statement(["ecs:RunTask"], family, sid="Start", conditions=here),
            statement(
                ["ecs:TagResource"],
                started,
                sid="Tag",
                conditions={"StringEquals": {"ecs:CreateAction": "RunTask"}},
            ),
            statement(
                ["iam:PassRole"],
                [role.arn for role in roles],
                sid="PassRoles",
                conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
            ),
            statement(["sqs:SendMessage"], dead.arn, sid="KeepWhatFailed"),
            use_key(self._args["key_arn"], [pulumi.Output.format("sqs.{0}.amazonaws.com", tasks.region)]),
        )

    def _alarms(self, dead: aws.sqs.Queue, hours: int) -> None:
        args = self._args
        watched: list[Any] = list(args.get("watch", ()))
        for alarm in (
            *_job_alarms.run_alarms(args["stack"], args["job"], hours),
            *(_job_alarms.watch(args["stack"], args["job"], hours, **one) for one in watched),
            _job_alarms.dead_letters(args["job"], dead.name),
        ):
            aws.cloudwatch.MetricAlarm(
                f"{self._name}-{alarm.name}",
                **alarm.inputs(),
                alarm_actions=[args["topic_arn"]],
                ok_actions=[args["topic_arn"]],
                tags=self._tags,
                opts=self._child,
            )


def _times(args: ScheduledJobArgs) -> tuple[int, int]:
    """Hours between two starts, and minutes within which each may be put off."""
    hours, window = args.get("every_hours", 24), args.get("window_minutes", 15)
    checked("ScheduledJob", "every_hours", hours, between(1, _job_alarms.LONGEST_HOURS, "hours"))
    checked("ScheduledJob", "window_minutes", window, between(1, 720, "minutes"))
    if window >= 60 * hours:
        raise ValueError(
            f"ScheduledJob: window_minutes={window} is no shorter than every_hours={hours}; "
            f"choose 1 to {min(720, 60 * int(hours) - 1)} minutes."
        )
    return int(hours), int(window)
