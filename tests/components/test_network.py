from typing import Any

import pulumi
import pytest

from components._break_even import SERVICES
from components.network import InterfaceEndpoints, Nat, Network, NetworkArgs
from tests.components.recorder import ANSWERS, Record, Recording, Registration, untagged

TYPE = "prodkit:index:Network"
SUBNET = "aws:ec2/subnet:Subnet"
ROUTE = "aws:ec2/route:Route"
NAT = "aws:ec2/natGateway:NatGateway"
ENDPOINT = "aws:ec2/vpcEndpoint:VpcEndpoint"
GROUP = "aws:ec2/securityGroup:SecurityGroup"


@pytest.fixture(scope="module")
def open_network(record: Record) -> Recording:
    """Without NAT: the default."""
    return record(lambda: Network("net", {"tags": {"team": "a"}}))


@pytest.fixture(scope="module")
def private_network(record: Record) -> Recording:
    """Three zones, a NAT in each, and private addresses of two services."""
    args: NetworkArgs = {
        "cidr": "10.8.0.0/16",
        "zone_count": 3,
        "nat": Nat.PER_AZ,
        "interface_endpoints": InterfaceEndpoints.ALL,
        "endpoint_services": ["secretsmanager", "ecr.api"],
        "logs_key_arn": "arn:logs-key",
        "flow_log_retention_days": 365,
        "tags": {"team": "a"},
    }
    return record(lambda: Network("net", args))


def routes(recording: Recording) -> dict[str, Any]:
    return {r.name: r.inputs.get("natGatewayId") or r.inputs.get("gatewayId") for r in recording.all(ROUTE)}


def endpoints(recording: Recording, kind: str) -> dict[str, Registration]:
    return {e.name: e for e in recording.all(ENDPOINT) if e.inputs["vpcEndpointType"] == kind}


def test_without_nat_tasks_get_public_addresses_in_public_subnets(open_network: Recording) -> None:
    assert open_network.outputs(TYPE) == {
        "vpc_id": "net-vpc-id",
        "public_subnet_ids": ["net-public-0-subnet-id", "net-public-1-subnet-id"],
        "private_subnet_ids": [],
        "task_subnet_ids": ["net-public-0-subnet-id", "net-public-1-subnet-id"],
        "assign_public_ip": True,
    }
    assert routes(open_network) == {"net-public-out": "net-igw-id"}
    assert open_network.all(NAT) == []


def test_a_public_subnet_gives_no_address_to_who_does_not_ask(open_network: Recording) -> None:
    assert open_network.one(SUBNET, "net-public-1-subnet").inputs == {
        "vpcId": "net-vpc-id",
        "cidrBlock": "10.0.96.0/20",
        "availabilityZone": "us-east-1b",
        "mapPublicIpOnLaunch": False,
        "tags": {"team": "a", "Name": "net-public-1"},
    }


def test_a_zone_that_fails_moves_no_subnet(open_network: Recording) -> None:
    assert all(subnet.ignore_changes == ("availabilityZone",) for subnet in open_network.all(SUBNET))


def test_the_default_security_group_has_no_rule(open_network: Recording) -> None:
    group = open_network.one("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup")
    assert group.inputs == {"vpcId": "net-vpc-id", "tags": {"team": "a", "Name": "net-closed-default"}}


def test_with_nat_tasks_live_in_private_subnets(private_network: Recording) -> None:
    outputs = private_network.outputs(TYPE)
    assert outputs["assign_public_ip"] is False
    assert outputs["task_subnet_ids"] == outputs["private_subnet_ids"]
    assert outputs["private_subnet_ids"] == [f"net-private-{zone}-subnet-id" for zone in range(3)]
    assert [subnet.inputs["cidrBlock"] for subnet in private_network.all(SUBNET)] == [
        "10.8.0.0/19",
        "10.8.64.0/19",
        "10.8.128.0/19",
        "10.8.32.0/20",
        "10.8.96.0/20",
        "10.8.160.0/20",
    ]


def test_with_a_nat_in_each_zone_no_zone_depends_on_another(private_network: Recording) -> None:
    assert routes(private_network) == {
        "net-public-out": "net-igw-id",
        "net-private-0-out": "net-nat-0-id",
        "net-private-1-out": "net-nat-1-id",
        "net-private-2-out": "net-nat-2-id",
    }
    assert {nat.name: nat.inputs["subnetId"] for nat in private_network.all(NAT)} == {
        f"net-nat-{zone}": f"net-public-{zone}-subnet-id" for zone in range(3)
    }


def test_a_single_nat_serves_every_zone(record: Record) -> None:
    recording = record(lambda: Network("net", {"nat": Nat.SINGLE}))
    assert routes(recording) == {
        "net-public-out": "net-igw-id",
        "net-private-0-out": "net-nat-0-id",
        "net-private-1-out": "net-nat-0-id",
    }
    assert len(recording.all(NAT)) == 1


def test_every_subnet_is_routed(private_network: Recording) -> None:
    tables = {
        association.inputs["subnetId"]: association.inputs["routeTableId"]
        for association in private_network.all("aws:ec2/routeTableAssociation:RouteTableAssociation")
    }
    assert tables == {
        **{f"net-public-{zone}-subnet-id": "net-public-id" for zone in range(3)},
        **{f"net-private-{zone}-subnet-id": f"net-private-{zone}-id" for zone in range(3)},
    }


def test_the_free_gateways_serve_every_route_table(open_network: Recording, private_network: Recording) -> None:
    for recording, tables in (
        (open_network, ["net-public-id"]),
        (private_network, ["net-public-id", *[f"net-private-{zone}-id" for zone in range(3)]]),
    ):
        gateways = endpoints(recording, "Gateway")
        assert {e.inputs["serviceName"] for e in gateways.values()} == {
            "com.amazonaws.us-east-1.s3",
            "com.amazonaws.us-east-1.dynamodb",
        }
        assert all(e.inputs["routeTableIds"] == tables for e in gateways.values())


def test_private_addresses_of_services_are_an_option_with_a_group_of_their_own(private_network: Recording) -> None:
    private = endpoints(private_network, "Interface")
    assert set(private) == {"net-secretsmanager", "net-ecr-api"}
    assert private["net-ecr-api"].inputs == {
        "vpcId": "net-vpc-id",
        "vpcEndpointType": "Interface",
        "serviceName": "com.amazonaws.us-east-1.ecr.api",
        "privateDnsEnabled": True,
        "subnetIds": [f"net-private-{zone}-subnet-id" for zone in range(3)],
        "securityGroupIds": ["net-endpoints-sg-id"],
        "policy": private["net-ecr-api"].inputs["policy"],
        "tags": {"team": "a", "Name": "net-ecr.api"},
    }
    assert "ingress" not in private_network.one(GROUP).inputs
    rule = private_network.one("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule").inputs
    assert (rule["cidrIpv4"], rule["ipProtocol"], rule["fromPort"], rule["toPort"]) == ("10.8.0.0/16", "tcp", 443, 443)


def test_a_private_address_serves_this_account_only(private_network: Recording) -> None:
    conditions = {}
    for name, endpoint in endpoints(private_network, "Interface").items():
        (allowed,) = endpoint.json("policy")["Statement"]
        conditions[name] = allowed["Condition"]["StringEquals"]
    assert conditions == {
        "net-secretsmanager": {"aws:PrincipalAccount": "123456789012", "aws:ResourceAccount": "123456789012"},
        "net-ecr-api": {"aws:PrincipalAccount": "123456789012"},
    }


@pytest.mark.parametrize(
    ("nat", "gb", "services"),
    [
        (Nat.SINGLE, 417.9, []),
        (Nat.SINGLE, 418, ["logs"]),
        (Nat.NONE, 1e6, []),
    ],
)
def test_auto_makes_the_private_addresses_that_pay(record: Record, nat: Nat, gb: float, services: list[str]) -> None:
    recording = record(lambda: Network("net", {"nat": nat, "endpoint_traffic_gb": {"logs": gb, "sqs": 1}}))
    assert list(endpoints(recording, "Interface")) == [f"net-{service}" for service in services]


@pytest.mark.parametrize("nat", Nat)
def test_all_and_none_ask_for_no_sum(record: Record, nat: Nat) -> None:
    gb = dict.fromkeys(SERVICES, 1e6)
    every = record(lambda: Network("net", {"nat": nat, "interface_endpoints": InterfaceEndpoints.ALL}))
    assert {e.inputs["serviceName"] for e in endpoints(every, "Interface").values()} == {
        f"com.amazonaws.us-east-1.{service}" for service in SERVICES
    }
    choice: NetworkArgs = {"nat": nat, "interface_endpoints": InterfaceEndpoints.NONE, "endpoint_traffic_gb": gb}
    assert endpoints(record(lambda: Network("net", choice)), "Interface") == {}


def test_nobody_pays_for_private_addresses_who_did_not_ask(open_network: Recording) -> None:
    assert endpoints(open_network, "Interface") == {}
    assert open_network.all(GROUP) == []


def test_flow_logs_are_kept_encrypted_and_for_as_long_as_asked(private_network: Recording) -> None:
    group = private_network.one("aws:cloudwatch/logGroup:LogGroup")
    assert group.inputs == {"kmsKeyId": "arn:logs-key", "retentionInDays": 365, "tags": {"team": "a"}}
    flow = private_network.one("aws:ec2/flowLog:FlowLog").inputs
    arn = "arn:aws:cloudwatch:us-east-1:123456789012:logGroup/net-flows"
    assert (flow["vpcId"], flow["trafficType"], flow["logDestination"]) == ("net-vpc-id", "ALL", arn)


def test_flow_logs_are_written_by_a_role_that_can_do_nothing_else(open_network: Recording) -> None:
    (trust,) = open_network.one("aws:iam/role:Role").json("assumeRolePolicy")["Statement"]
    assert trust["Principal"] == {"Service": "vpc-flow-logs.amazonaws.com"}
    assert trust["Condition"] == {
        "StringEquals": {"aws:SourceAccount": "123456789012"},
        "ArnLike": {"aws:SourceArn": "arn:aws:ec2:us-east-1:123456789012:vpc-flow-log/*"},
    }
    (write,) = open_network.one("aws:iam/rolePolicy:RolePolicy").json("policy")["Statement"]
    assert write["Action"] == ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    arn = "arn:aws:cloudwatch:us-east-1:123456789012:logGroup/net-flows"
    assert write["Resource"] == [arn, f"{arn}:*"]


def test_the_network_belongs_to_the_component_and_is_tagged(private_network: Recording) -> None:
    assert private_network.strays(TYPE) == []
    assert untagged(private_network, {"team": "a"}) == []


def test_more_zones_than_the_account_has_are_refused(record: Record) -> None:
    token = "aws:index/getAvailabilityZones:getAvailabilityZones"
    two = {token: {**ANSWERS[token], "names": ["us-west-1a", "us-west-1c"]}}
    with pytest.raises(ValueError, match=r"Network: zone_count=3 is more than the 2 zones .*; choose 2\."):
        record(lambda: Network("net", {"zone_count": 3}), answers=two)
    subnets = record(lambda: Network("net", {"zone_count": 2}), answers=two).all(SUBNET)
    assert [subnet.inputs["availabilityZone"] for subnet in subnets] == ["us-west-1a", "us-west-1c"]


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"cidr": "10.0.0.1/16"}, r"cidr='10\.0\.0\.1/16' is not the start of a network; write 10\.0\.0\.0/16"),
        ({"reserved_cidrs": ["10.0.128.0/20"]}, r"cidr='10\.0\.0\.0/16' overlaps 10\.0\.128\.0/20"),
        ({"zone_count": 1}, "zone_count=1 .*; choose 2 to 3 zones"),
        ({"zone_count": 4}, "zone_count=4 .*; choose 2 to 3 zones"),
        ({"nat": "per-az"}, "nat='per-az' is unknown; did you mean 'per_az'"),
        ({"flow_log_retention_days": 31}, "flow_log_retention_days=31 .*; choose one of 1, 3, 5"),
        ({"interface_endpoints": "al"}, "interface_endpoints='al' is unknown; did you mean 'all'"),
        ({"endpoint_services": ["s3"]}, "endpoint_services=.* names s3, whose free gateway is always there"),
        ({"endpoint_services": ["Logs"]}, "names 'Logs'; write short names"),
        ({"endpoint_services": ["logs", "logs"]}, "names a service twice"),
        (
            {"endpoint_traffic_gb": {"log": 1}},
            "endpoint_traffic_gb=.* names log, which is none of endpoint_services; did",
        ),
        ({"endpoint_traffic_gb": {"logs": -1}}, "endpoint_traffic_gb=.* gives logs -1 GB; write 0 or more"),
        ({"vpc_id": "vpc-1", "interface_endpoints": "all"}, "interface_endpoints belongs to a network that is made"),
        ({"public_subnet_ids": ["a", "b"]}, "public_subnet_ids belongs to an adopted network; add vpc_id"),
        ({"vpc_id": "vpc-1", "cidr": "10.0.0.0/16"}, "cidr belongs to a network that is made; remove it, or vpc_id"),
        ({"vpc_id": "vpc-1"}, "public_subnet_ids names 0 subnets; name at least two"),
        (
            {"vpc_id": "vpc-1", "public_subnet_ids": ["a", "b"], "private_subnet_ids": ["c"]},
            "private_subnet_ids names 1 subnets; name at least two",
        ),
        ({"zone_cout": 2}, "unknown argument 'zone_cout'; did you mean 'zone_count'"),
    ],
)
def test_what_cannot_work_stops_before_anything_registers(record: Record, wrong: Any, fix: str) -> None:
    with pytest.raises(ValueError, match=f"Network: .*{fix}" if fix.startswith("names") else f"Network: {fix}"):
        record(lambda: Network("net", wrong))


def lookups(own_tables: list[str], **route: str) -> dict[str, dict[str, Any]]:
    """Answers of a network in which subnets have `own_tables`, and every table the default route `route`."""
    targets = {
        **dict.fromkeys(("carrierGatewayId", "coreNetworkArn", "destinationPrefixListId", "egressOnlyGatewayId"), ""),
        **dict.fromkeys(("gatewayId", "instanceId", "ipv6CidrBlock", "localGatewayId", "natGatewayId"), ""),
        **dict.fromkeys(("networkInterfaceId", "transitGatewayId", "vpcEndpointId", "vpcPeeringConnectionId"), ""),
        "odbNetworkArn": "",
    }
    local = {**targets, "cidrBlock": "10.0.0.0/16", "gatewayId": "local"}
    return {
        "aws:ec2/getRouteTables:getRouteTables": {"id": "us-east-1", "ids": own_tables},
        "aws:ec2/getRouteTable:getRouteTable": {
            "id": "rtb-1",
            "routeTableId": "rtb-1",
            "routes": [local, {**targets, "cidrBlock": "0.0.0.0/0", **route}],
        },
    }


ADOPTED: NetworkArgs = {
    "vpc_id": "vpc-1",
    "public_subnet_ids": ["public-1", "public-2"],
    "private_subnet_ids": ["private-1", "private-2"],
}


@pytest.mark.parametrize("own_tables", [["rtb-1"], []])
@pytest.mark.parametrize("target", [{"natGatewayId": "nat-1"}, {"transitGatewayId": "tgw-1"}, {"gatewayId": "vgw-1"}])
def test_a_network_that_exists_is_used_as_it_is(record: Record, own_tables: list[str], target: dict[str, str]) -> None:
    recording = record(lambda: Network("net", ADOPTED), answers=lookups(own_tables, **target))
    assert [resource.type for resource in recording.resources] == [TYPE]
    assert recording.outputs(TYPE) == {
        "vpc_id": "vpc-1",
        "public_subnet_ids": ["public-1", "public-2"],
        "private_subnet_ids": ["private-1", "private-2"],
        "task_subnet_ids": ["private-1", "private-2"],
        "assign_public_ip": False,
    }


def test_an_adopted_private_subnet_that_cannot_reach_the_api_is_refused(record: Record) -> None:
    for own_tables in (["rtb-1"], []):
        with pytest.raises(ValueError, match=r"names private-\d, which has no route to the"):
            record(lambda: Network("net", ADOPTED), answers=lookups(own_tables, gatewayId="igw-1"))
    no_default = lookups(["rtb-1"], cidrBlock="10.9.0.0/16", natGatewayId="nat-1")
    with pytest.raises(ValueError, match="could not reach the OpenAI API; give it a NAT gateway"):
        record(lambda: Network("net", ADOPTED), answers=no_default)


def test_an_adopted_network_without_private_subnets_needs_no_lookup(record: Record) -> None:
    def program() -> None:
        known = pulumi.Output.from_input
        Network("net", {"vpc_id": known("vpc-1"), "public_subnet_ids": [known("public-1"), "public-2"]})

    outputs = record(program).outputs(TYPE)
    assert outputs["task_subnet_ids"] == ["public-1", "public-2"]
    assert outputs["assign_public_ip"] is True


def test_a_first_preview_knows_what_it_can(record: Record) -> None:
    recording = record(lambda: Network("net", {"nat": Nat.SINGLE}), preview=True)
    assert recording.one(SUBNET, "net-private-0-subnet").inputs["cidrBlock"] == "10.0.0.0/19"
    assert recording.outputs(TYPE)["assign_public_ip"] is False
