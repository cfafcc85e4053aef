"""Whether an adopted network's private subnets reach the Internet."""

from collections.abc import Sequence
from typing import Any, Protocol

import pulumi
import pulumi_aws as aws


class Route(Protocol):
    """What is read of a route: where it leads, and by what; absent targets are empty text."""

    @property
    def cidr_block(self) -> str:
        """Destination."""
        ...

    @property
    def gateway_id(self) -> str:
        """Internet or virtual private gateway."""
        ...


def has_a_way_out(routes: Sequence[Route]) -> bool:
    """Whether tasks without public addresses reach the Internet: by a default route that is no Internet gateway.

    NAT gateways and instances, transit gateways and firewalls all count; an Internet gateway drops who has no public
    address.
    """
    return any(route.cidr_block == "0.0.0.0/0" and not route.gateway_id.startswith("igw-") for route in routes)


def private_subnets_with_a_way_out(
    vpc_id: pulumi.Input[str], subnet_ids: Sequence[pulumi.Input[str]], opts: pulumi.InvokeOptions
) -> pulumi.Output[Sequence[str]]:
    """`subnet_ids`, once the route table of each was read and leads out.

    Raises (at deployment):
        ValueError: naming the subnet from which the OpenAI API could not be reached.
    """
    return pulumi.Output.all(*[_with_a_way_out(vpc_id, subnet_id, opts) for subnet_id in subnet_ids])


def _with_a_way_out(
    vpc_id: pulumi.Input[str], subnet_id: pulumi.Input[str], opts: pulumi.InvokeOptions
) -> pulumi.Output[str]:
    def own_tables(known: str) -> pulumi.Output[Sequence[str]]:
        filters: list[aws.ec2.GetRouteTablesFilterArgsDict] = [{"name": "association.subnet-id", "values": [known]}]
        return aws.ec2.get_route_tables_output(filters=filters, opts=opts).ids

    def table_of(ids: Sequence[str]) -> pulumi.Output[Any]:
        if ids:
            return aws.ec2.get_route_table_output(route_table_id=ids[0], opts=opts)
        # a subnet without a table of its own uses the network's main one
        return aws.ec2.get_route_table_output(
            vpc_id=vpc_id, filters=[{"name": "association.main", "values": ["true"]}], opts=opts
        )

    def check(known: Sequence[Any]) -> str:
        subnet, table = known
        if not has_a_way_out(table.routes):
            raise ValueError(
                f"Network: private_subnet_ids names {subnet}, which has no route to the Internet, so that its tasks"
                " could not reach the OpenAI API; give it a NAT gateway, or leave private_subnet_ids out."
            )
        return str(subnet)

    ids: pulumi.Output[Sequence[str]] = pulumi.Output.from_input(subnet_id).apply(own_tables)
    return pulumi.Output.all(subnet_id, ids.apply(table_of)).apply(check)
