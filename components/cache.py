"""A shared Valkey cache that only the app's own role and security group reach."""

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components._args import between, check_known, checked, choice, named
from components._policies import grant, statement

PORT = 6379
_ENGINE = "valkey"
_MAJOR_VERSION = "8"
_ID_LENGTH = 40  # https://docs.aws.amazon.com/AmazonElastiCache/latest/APIReference/API_CreateUser.html

# Later terms win, so what is dangerous or administrative is taken away after the groups that contain some of it.
# CLUSTER SLOTS and its like are how a cluster client finds its way; TIME is the limiter's clock.
_ACCESS = (
    "on ~* -@all +@read +@write +@connection +@scripting +@transaction"
    " -@admin -@dangerous +cluster|slots +cluster|shards +cluster|nodes +time"
)


class CacheMode(StrEnum):
    """Who sizes the cache."""

    SERVERLESS = "serverless"
    """AWS does, and bills what is stored and done: from about six dollars a month."""

    REPLICATED = "replicated"
    """You do: a primary with replicas in other zones, billed by node and hour."""


class CacheArgs(TypedDict):
    """What `Cache` takes."""

    vpc_id: pulumi.Input[str]
    """The network of the cache."""

    subnet_ids: pulumi.Input[Sequence[pulumi.Input[str]]]
    """Two or three subnets of that network, each in another zone."""

    key_arn: pulumi.Input[str]
    """ARN of the KMS key that encrypts what the cache stores."""

    mode: NotRequired[CacheMode]
    """`serverless` (default) or `replicated`. Known before deployment; a change makes a new, empty cache."""

    max_data_gib: NotRequired[pulumi.Input[int]]
    """Serverless: the most that may be stored, 1-5000 GiB; default 1. It bounds the bill; beyond it old entries go."""

    max_ecpu_per_second: NotRequired[pulumi.Input[int]]
    """Serverless: the most work a second, 1000-15000000 ElastiCache processing units, of which a small command costs
    one; default 5000. It bounds the bill; beyond it commands are throttled."""

    node_type: NotRequired[pulumi.Input[str]]
    """Replicated: the size of each node; default `cache.t4g.small`."""

    replicas: NotRequired[pulumi.Input[int]]
    """Replicated: copies of the primary, each in another zone as far as there are zones, 1-5; default 1."""

    tags: NotRequired[pulumi.Input[Mapping[str, pulumi.Input[str]]]]
    """Tags of every resource."""


class Cache(pulumi.ComponentResource):
    """Valkey with TLS and IAM authentication: no password exists, so none can leak. Its security group is closed;
    who may connect adds a rule to it by reference."""

    endpoint: pulumi.Output[str]
    """`host:port` to connect to, with TLS and the cluster protocol."""
    name: pulumi.Output[str]
    """Name of the cache, which is part of the IAM token."""
    user_name: pulumi.Output[str]
    """User to connect as."""
    mode: pulumi.Output[str]
    """Protocol that the cache speaks, always `cluster`: scripts keep to one hash slot."""
    port: pulumi.Output[int]
    """Port to connect to."""
    security_group_id: pulumi.Output[str]
    """The cache's security group, which lets nobody in by itself."""
    connect_policy: pulumi.Output[str]
    """IAM policy (JSON) that allows connecting as that user."""

    def __init__(self, name: str, args: CacheArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Cache", args, CacheArgs)
        mode = choice("Cache", "mode", args.get("mode", CacheMode.SERVERLESS), CacheMode)
        _refuse_foreign(mode, args)
        subnet_ids = checked("Cache", "subnet_ids", args["subnet_ids"], _subnets_problem)
        # the ranges of CreateServerlessCache and CreateReplicationGroup
        gib = checked("Cache", "max_data_gib", args.get("max_data_gib", 1), between(1, 5000, "GiB"))
        ecpu = checked(
            "Cache",
            "max_ecpu_per_second",
            args.get("max_ecpu_per_second", 5000),
            between(1000, 15_000_000, "ECPU a second"),
        )
        replicas = checked("Cache", "replicas", args.get("replicas", 1), between(1, 5, "replicas"))

        super().__init__("prodkit:index:Cache", name, {}, opts)

        group = aws.ec2.SecurityGroup(
            f"{name}-sg",
            vpc_id=args["vpc_id"],
            description="The cache; whoever may connect is a rule of its own",
            tags=named(args.get("tags"), f"{name}-cache"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        user_id = short_id(pulumi.get_project(), pulumi.get_stack(), name)
        user = aws.elasticache.User(
            f"{name}-user",
            user_id=user_id,
            user_name=user_id,  # IAM authentication requires the two to be the same
            engine=_ENGINE,
            access_string=_ACCESS,
            authentication_mode={"type": "iam"},
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        users = aws.elasticache.UserGroup(
            f"{name}-users",
            user_group_id=user_id,
            engine=_ENGINE,
            user_ids=[user.user_id],
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )

        if mode is CacheMode.SERVERLESS:
            limits: aws.elasticache.ServerlessCacheCacheUsageLimitsArgsDict = {
                "data_storage": {"maximum": gib, "unit": "GB"},
                "ecpu_per_seconds": [{"maximum": ecpu}],
            }
            serverless = self._serverless(name, args, subnet_ids, group, users, limits)
            cache_arn = serverless.arn
            host = serverless.endpoints.apply(lambda endpoints: endpoints[0].address)
            self.name = serverless.name
        else:
            replicated = self._replicated(name, args, subnet_ids, group, users, replicas)
            cache_arn = replicated.arn
            host = replicated.configuration_endpoint_address
            self.name = replicated.replication_group_id.apply(str)

        self.endpoint = pulumi.Output.format("{0}:{1}", host, PORT)
        self.user_name = user.user_name
        self.mode = pulumi.Output.from_input("cluster")
        self.port = pulumi.Output.from_input(PORT)
        self.security_group_id = group.id.apply(str)
        # https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth-iam.html
        self.connect_policy = grant(statement(["elasticache:Connect"], [cache_arn, user.arn], sid="Connect"))
        self.register_outputs(
            {
                "endpoint": self.endpoint,
                "name": self.name,
                "user_name": self.user_name,
                "mode": self.mode,
                "port": self.port,
                "security_group_id": self.security_group_id,
                "connect_policy": self.connect_policy,
            }
        )

    def _serverless(
        self,
        name: str,
        args: CacheArgs,
        subnet_ids: pulumi.Input[Sequence[pulumi.Input[str]]],
        group: aws.ec2.SecurityGroup,
        users: aws.elasticache.UserGroup,
        limits: aws.elasticache.ServerlessCacheCacheUsageLimitsArgsDict,
    ) -> aws.elasticache.ServerlessCache:
        return aws.elasticache.ServerlessCache(
            f"{name}-cache",
            engine=_ENGINE,
            major_engine_version=_MAJOR_VERSION,
            description="Response cache, rate limits and shared flights",
            cache_usage_limits=limits,
            kms_key_id=args["key_arn"],
            security_group_ids=[group.id],
            subnet_ids=subnet_ids,
            user_group_id=users.user_group_id,
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _replicated(
        self,
        name: str,
        args: CacheArgs,
        subnet_ids: pulumi.Input[Sequence[pulumi.Input[str]]],
        group: aws.ec2.SecurityGroup,
        users: aws.elasticache.UserGroup,
        replicas: pulumi.Input[int],
    ) -> aws.elasticache.ReplicationGroup:
        subnets = aws.elasticache.SubnetGroup(
            f"{name}-subnets",
            description="Subnets of the cache",
            subnet_ids=subnet_ids,
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )
        return aws.elasticache.ReplicationGroup(
            f"{name}-cache",
            description="Response cache, rate limits and shared flights",
            engine=_ENGINE,
            engine_version=f"{_MAJOR_VERSION}.0",
            # cluster mode with one shard: the protocol is that of the serverless cache, so the app has one way
            parameter_group_name=f"default.{_ENGINE}{_MAJOR_VERSION}.cluster.on",
            num_node_groups=1,
            replicas_per_node_group=replicas,
            node_type=args.get("node_type", "cache.t4g.small"),
            port=PORT,
            automatic_failover_enabled=True,
            multi_az_enabled=True,
            at_rest_encryption_enabled=True,
            kms_key_id=args["key_arn"],
            transit_encryption_enabled=True,
            transit_encryption_mode="required",
            user_group_ids=[users.user_group_id],
            security_group_ids=[group.id],
            subnet_group_name=subnets.name,
            snapshot_retention_limit=1,  # a day: what is cached can be asked again, and what is counted soon ends
            auto_minor_version_upgrade=True,
            tags=args.get("tags"),
            opts=pulumi.ResourceOptions(parent=self),
        )


def short_id(*parts: str) -> str:
    """A lower-case id of at most 40 letters, digits and single hyphens that starts with a letter, made of `parts`.

    What is too long or has other characters ends in a digest, so that two names never become the same id.
    """
    wanted = "-".join(parts)
    plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in wanted.lower())
    plain = "-".join(filter(None, plain.split("-")))
    if plain == wanted and len(plain) <= _ID_LENGTH and plain[:1].isalpha():
        return plain
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
    start = plain if plain[:1].isalpha() else f"c{plain}"
    return f"{start[: _ID_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"


def _subnets_problem(subnet_ids: Sequence[object]) -> str | None:
    # https://docs.aws.amazon.com/AmazonElastiCache/latest/APIReference/API_CreateServerlessCache.html
    return None if len(subnet_ids) in (2, 3) else "is not allowed; choose two or three subnets, each in another zone."


def _refuse_foreign(mode: CacheMode, args: CacheArgs) -> None:
    """Refuses a size that the mode would ignore."""
    other, fields = {
        CacheMode.SERVERLESS: (CacheMode.REPLICATED, ("node_type", "replicas")),
        CacheMode.REPLICATED: (CacheMode.SERVERLESS, ("max_data_gib", "max_ecpu_per_second")),
    }[mode]
    for field in fields:
        if field in args:
            raise ValueError(
                f"Cache: {field} has no meaning in mode={mode.value}; remove it or choose mode={other.value}."
            )
