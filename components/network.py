"""A network of the stack's own, or one that exists."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from components import _break_even, _cidr
from components._args import LOG_RETENTION_DAYS, between, check_known, checked, choice, did_you_mean, named, one_of
from components._endpoints import gateway_endpoints, interface_endpoints
from components._flow_logs import flow_logs
from components._routes import private_subnets_with_a_way_out

_ANYWHERE = "0.0.0.0/0"
_MAX_ZONES = 3  # a serverless cache takes no more subnets


class Nat(StrEnum):
    """How tasks reach the Internet, and with it the OpenAI API."""

    NONE = "none"
    """Tasks live in public subnets with public addresses and closed security groups: no NAT to pay for."""

    SINGLE = "single"
    """Tasks live in private subnets behind one NAT gateway; if its zone fails, no task reaches the API."""

    PER_AZ = "per_az"
    """Tasks live in private subnets with a NAT gateway in each zone."""


class InterfaceEndpoints(StrEnum):
    """Which AWS services are reached by private addresses instead of through NAT; S3 and DynamoDB always are, free."""

    AUTO = "auto"
    """Those whose traffic, as far as it is foreseen, costs more through NAT."""

    ALL = "all"
    """Every service that tasks use, whatever it costs: no call to AWS leaves the network."""

    NONE = "none"
    """No service."""


class NetworkArgs(TypedDict):
    """What `Network` takes: the first group makes a network, `vpc_id` and its subnets adopt one instead."""

    cidr: NotRequired[str]
    """Addresses of the network, private, /16 to /23; default `10.0.0.0/16`. Known before deployment."""

    zone_count: NotRequired[int]
    """Availability zones, 2-3; default 2. Known before deployment; a later increase moves nothing."""

    nat: NotRequired[Nat]
    """How tasks reach the Internet; default `none`. Known before deployment."""

    interface_endpoints: NotRequired[InterfaceEndpoints]
    """Which services get private addresses; default `auto`. Each costs about 7 dollars a month and zone. Known before
    deployment."""

    endpoint_services: NotRequired[list[str]]
    """Services that `auto` and `all` choose from, by their short names; default what tasks of this kit use:
    `appconfigdata`, `ecr.api`, `ecr.dkr`, `logs`, `secretsmanager` and `sqs`. Known before deployment."""

    endpoint_traffic_gb: NotRequired[Mapping[str, float]]
    """GB a month that tasks are expected to exchange with each of these services, by short name, for `auto`; default
    none, and `auto` makes no endpoint. Known before deployment."""

    reserved_cidrs: NotRequired[list[str]]
    """Networks that this one will be connected to, and must not overlap. Known before deployment."""

    flow_log_retention_days: NotRequired[pulumi.Input[int]]
    """Days flow logs are kept, one of CloudWatch's choices from 1 to 3653; default 30."""

    logs_key_arn: NotRequired[pulumi.Input[str]]
    """ARN of the KMS key that encrypts flow logs; default CloudWatch's own."""

    vpc_id: NotRequired[pulumi.Input[str]]
    """A network that exists. Nothing is made in it, and nothing of the first group may be set."""

    public_subnet_ids: NotRequired[list[pulumi.Input[str]]]
    """With `vpc_id`: subnets of the load balancer, in two zones or more. Their number is known before deployment."""

    private_subnet_ids: NotRequired[list[pulumi.Input[str]]]
    """With `vpc_id`: subnets of tasks, in two zones or more, each with a way to the Internet that is not an Internet
    gateway; default none, and tasks live in the public ones. Their number is known before deployment."""

    tags: NotRequired[pulumi.Input[Mapping[str, pulumi.Input[str]]]]
    """Tags of every resource."""


_MAKING = (
    "cidr",
    "zone_count",
    "nat",
    "interface_endpoints",
    "endpoint_services",
    "endpoint_traffic_gb",
    "reserved_cidrs",
    "flow_log_retention_days",
    "logs_key_arn",
)
_ADOPTING = ("public_subnet_ids", "private_subnet_ids")


class Network(pulumi.ComponentResource):
    """Subnets over several zones, with a closed default security group, gateways to S3 and DynamoDB, and flow logs."""

    vpc_id: pulumi.Output[str]
    """The network."""
    public_subnet_ids: pulumi.Output[Sequence[str]]
    """Subnets of the load balancer, one in each zone."""
    private_subnet_ids: pulumi.Output[Sequence[str]]
    """Subnets without public addresses, one in each zone; empty without NAT."""
    task_subnet_ids: pulumi.Output[Sequence[str]]
    """Where tasks go: the private subnets, or the public ones when there are no private ones."""
    assign_public_ip: pulumi.Output[bool]
    """Whether tasks need a public address to reach the Internet."""

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        check_known("Network", args, NetworkArgs)
        _check_mix(args)
        nat = choice("Network", "nat", args.get("nat", Nat.NONE), Nat)
        cidr = args.get("cidr", "10.0.0.0/16")
        checked("Network", "cidr", cidr, lambda text: _cidr_problem(text, args.get("reserved_cidrs", [])))
        zone_count = args.get("zone_count", 2)
        checked("Network", "zone_count", zone_count, between(2, _MAX_ZONES, "zones"))
        wanted = args.get("interface_endpoints", InterfaceEndpoints.AUTO)
        endpoints = choice("Network", "interface_endpoints", wanted, InterfaceEndpoints)
        services = args.get("endpoint_services", list(_break_even.SERVICES))
        checked("Network", "endpoint_services", services, _services_problem)
        traffic = args.get("endpoint_traffic_gb", {})
        checked("Network", "endpoint_traffic_gb", traffic, lambda known: _traffic_problem(known, services))
        retention = checked(
            "Network",
            "flow_log_retention_days",
            args.get("flow_log_retention_days", 30),
            one_of(LOG_RETENTION_DAYS, "days"),
        )

        super().__init__("prodkit:index:Network", name, {}, opts)

        if "vpc_id" in args:
            self._adopt(args)
        else:
            private = {
                InterfaceEndpoints.AUTO: _break_even.worth_having(
                    services, traffic, int(zone_count), nat is not Nat.NONE
                ),
                InterfaceEndpoints.ALL: services,
                InterfaceEndpoints.NONE: [],
            }
            self._make(name, args, _cidr.plan(cidr, int(zone_count)), nat, private[endpoints])
            flow_logs(self, name, self.vpc_id, retention, args.get("logs_key_arn"), args.get("tags"))
        self.register_outputs(
            {
                "vpc_id": self.vpc_id,
                "public_subnet_ids": self.public_subnet_ids,
                "private_subnet_ids": self.private_subnet_ids,
                "task_subnet_ids": self.task_subnet_ids,
                "assign_public_ip": self.assign_public_ip,
            }
        )

    def _expose(
        self,
        vpc_id: pulumi.Input[str],
        public: Sequence[pulumi.Input[str]],
        private: pulumi.Output[Sequence[str]],
        *,
        in_private: bool,
    ) -> None:
        self.vpc_id = pulumi.Output.from_input(vpc_id)
        self.public_subnet_ids = pulumi.Output.all(*public)
        self.private_subnet_ids = private
        self.task_subnet_ids = self.private_subnet_ids if in_private else self.public_subnet_ids
        self.assign_public_ip = pulumi.Output.from_input(not in_private)

    def _adopt(self, args: NetworkArgs) -> None:
        private = args.get("private_subnet_ids", [])
        checked_private = private_subnets_with_a_way_out(args["vpc_id"], private, pulumi.InvokeOptions(parent=self))
        self._expose(args["vpc_id"], args["public_subnet_ids"], checked_private, in_private=bool(private))

    def _make(
        self, name: str, args: NetworkArgs, zones: list[_cidr.ZoneSubnets], nat: Nat, private_services: list[str]
    ) -> None:
        child = pulumi.ResourceOptions(parent=self)
        tags = args.get("tags")
        vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=args.get("cidr", "10.0.0.0/16"),
            enable_dns_support=True,
            enable_dns_hostnames=True,  # private DNS of endpoints needs both
            tags=named(tags, name),
            opts=child,
        )
        # Without rules: what forgets to name a group can talk to nobody. The default network ACL stays as AWS made it,
        # open: it keeps no state, so a rule against strangers would have to let every answer in by its port anyway.
        aws.ec2.DefaultSecurityGroup(
            f"{name}-default-sg", vpc_id=vpc.id, tags=named(tags, f"{name}-closed-default"), opts=child
        )
        gateway = aws.ec2.InternetGateway(f"{name}-igw", vpc_id=vpc.id, tags=named(tags, name), opts=child)
        public_table = aws.ec2.RouteTable(
            f"{name}-public", vpc_id=vpc.id, tags=named(tags, f"{name}-public"), opts=child
        )
        way_out = aws.ec2.Route(
            f"{name}-public-out",
            route_table_id=public_table.id,
            destination_cidr_block=_ANYWHERE,
            gateway_id=gateway.id,
            opts=child,
        )
        zone_names = self._zone_names(len(zones))
        public = [
            self._subnet(f"{name}-public-{index}", vpc, zone.public, zone_names[index], public_table, tags)
            for index, zone in enumerate(zones)
        ]

        private: list[aws.ec2.Subnet] = []
        private_tables: list[aws.ec2.RouteTable] = []
        if nat is not Nat.NONE:
            nats = [
                self._nat(f"{name}-nat-{index}", subnet, way_out, tags)
                for index, subnet in enumerate(public if nat is Nat.PER_AZ else public[:1])
            ]
            for index, zone in enumerate(zones):
                # a table for each zone even with one NAT, so that a second one changes a route and moves no subnet
                table = aws.ec2.RouteTable(
                    f"{name}-private-{index}", vpc_id=vpc.id, tags=named(tags, f"{name}-private-{index}"), opts=child
                )
                aws.ec2.Route(
                    f"{name}-private-{index}-out",
                    route_table_id=table.id,
                    destination_cidr_block=_ANYWHERE,
                    nat_gateway_id=nats[index % len(nats)].id,
                    opts=child,
                )
                private_tables.append(table)
                private.append(
                    self._subnet(f"{name}-private-{index}", vpc, zone.private, zone_names[index], table, tags)
                )

        self._expose(
            vpc.id, [s.id for s in public], pulumi.Output.all(*[s.id for s in private]), in_private=bool(private)
        )
        gateway_endpoints(self, name, vpc, [public_table, *private_tables], tags)
        if private_services:
            interface_endpoints(self, name, vpc, private_services, self.task_subnet_ids, tags)

    def _zone_names(self, count: int) -> list[pulumi.Output[str]]:
        zones = aws.get_availability_zones_output(
            state="available",
            # local zones and Wavelength zones must be opted into and lack most services
            filters=[{"name": "opt-in-status", "values": ["opt-in-not-required"]}],
            opts=pulumi.InvokeOptions(parent=self),
        )

        def enough(names: Sequence[str]) -> Sequence[str]:
            if len(names) < count:
                raise ValueError(
                    f"Network: zone_count={count} is more than the {len(names)} zones that this account has here;"
                    f" choose {len(names)}."
                )
            return sorted(names)

        names = zones.names.apply(enough)
        return [names[index] for index in range(count)]

    def _subnet(
        self,
        name: str,
        vpc: aws.ec2.Vpc,
        cidr: str,
        zone: pulumi.Output[str],
        table: aws.ec2.RouteTable,
        tags: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None,
    ) -> aws.ec2.Subnet:
        subnet = aws.ec2.Subnet(
            f"{name}-subnet",
            vpc_id=vpc.id,
            cidr_block=cidr,
            availability_zone=zone,
            map_public_ip_on_launch=False,  # who needs a public address asks for it
            tags=named(tags, name),
            # a zone that is impaired leaves the list, and the rest must not move up and be replaced
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["availabilityZone"]),
        )
        aws.ec2.RouteTableAssociation(
            f"{name}-routes",
            subnet_id=subnet.id,
            route_table_id=table.id,
            opts=pulumi.ResourceOptions(parent=self),
        )
        return subnet

    def _nat(
        self,
        name: str,
        subnet: aws.ec2.Subnet,
        way_out: aws.ec2.Route,
        tags: pulumi.Input[Mapping[str, pulumi.Input[str]]] | None,
    ) -> aws.ec2.NatGateway:
        address = aws.ec2.Eip(
            f"{name}-ip", domain="vpc", tags=named(tags, name), opts=pulumi.ResourceOptions(parent=self)
        )
        return aws.ec2.NatGateway(
            name,
            allocation_id=address.allocation_id,
            subnet_id=subnet.id,
            tags=named(tags, name),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[way_out]),
        )


def _check_mix(args: NetworkArgs) -> None:
    """Refuses arguments of making and of adopting a network together."""
    if "vpc_id" not in args:
        for field in _ADOPTING:
            if args.get(field):
                raise ValueError(f"Network: {field} belongs to an adopted network; add vpc_id, or remove it.")
        return
    for field in _MAKING:
        if field in args:
            raise ValueError(f"Network: {field} belongs to a network that is made; remove it, or vpc_id.")
    for field, needed in (("public_subnet_ids", True), ("private_subnet_ids", False)):
        subnets = args.get(field)
        count = len(subnets) if isinstance(subnets, list) else 0
        if count < 2 and (needed or count):
            raise ValueError(f"Network: {field} names {count} subnets; name at least two, in different zones.")


def _cidr_problem(cidr: str, reserved: Sequence[str]) -> str | None:
    try:
        _cidr.refuse_overlap(cidr, reserved)
    except ValueError as error:
        return str(error)
    return None


def _services_problem(services: Sequence[str]) -> str | None:
    for service in services:
        if service in ("s3", "dynamodb"):
            return f"names {service}, whose free gateway is always there; remove it."
        if not service or not all(char.islower() or char.isdigit() or char in ".-" for char in service):
            return f"names {service!r}; write short names such as 'secretsmanager' or 'ecr.api'."
    if len(set(services)) < len(services):
        return "names a service twice; remove one."
    return None


def _traffic_problem(traffic: Mapping[str, float], services: Sequence[str]) -> str | None:
    for service, gb in traffic.items():
        if service not in services:
            return f"names {service}, which is none of endpoint_services; {did_you_mean(service, services)}"
        if not gb >= 0:
            return f"gives {service} {gb} GB; write 0 or more."
    return None
