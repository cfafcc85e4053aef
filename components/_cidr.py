"""Which addresses a network's subnets get: pure arithmetic, the same answer for every number of zones."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

# A load balancer subnet needs a /27 with 8 free addresses, and the public subnet is a sixteenth of the network:
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html#subnets-load-balancer
SMALLEST_PREFIX = 23
# https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html
LARGEST_PREFIX = 16
MAX_ZONES = 4

# Anything else belongs to somebody on the Internet, who could then not be reached from here.
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))


@dataclass(frozen=True)
class ZoneSubnets:
    """The subnets of one availability zone, as CIDR text."""

    public: str
    private: str


def parse(cidr: str) -> IPv4Network:
    """The network that `cidr` names.

    Raises:
        ValueError: when it is no network, has host bits set, has no size that a VPC may have here, or is not
            reserved for private use; the message is the fix.
    """
    try:
        network = IPv4Network(cidr, strict=False)
    except ValueError as error:
        raise ValueError("is not an IPv4 network; write it like 10.0.0.0/16.") from error
    if str(network) != cidr:
        raise ValueError(f"is not the start of a network; write {network}.")
    if not LARGEST_PREFIX <= network.prefixlen <= SMALLEST_PREFIX:
        raise ValueError(f"does not fit; choose a network from /{LARGEST_PREFIX} to /{SMALLEST_PREFIX}.")
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise ValueError("is not private; choose it within 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10.")
    return network


def refuse_overlap(cidr: str, others: Iterable[str]) -> None:
    """Refuses a network that shares addresses with one of `others`: no route could tell them apart.

    Raises:
        ValueError: naming the other network, or when one of `others` is no network.
    """
    network = parse(cidr)
    for other in others:
        try:
            taken = IPv4Network(other)
        except ValueError as error:
            raise ValueError(
                f"cannot be compared with {other!r}, which is not a network; write it like 10.8.0.0/16."
            ) from error
        if network.overlaps(taken):
            raise ValueError(f"overlaps {other}; choose a network that shares no address with it.")


def plan(cidr: str, zone_count: int) -> list[ZoneSubnets]:
    """The subnets of the first `zone_count` zones (1-4) of the network `cidr`.

    Each zone owns a quarter of the network: its first half is private, the quarter after that public, the rest is
    kept free. A subnet's addresses depend on its zone's position only, so that adding a zone or private subnets later
    moves, and so replaces, nothing that exists.

    Raises:
        ValueError: as `parse`, or when there are more zones than quarters.
    """
    if not 1 <= zone_count <= MAX_ZONES:
        raise ValueError(f"has room for 1 to {MAX_ZONES} zones, not {zone_count}.")
    zones = list(parse(cidr).subnets(prefixlen_diff=2))[:zone_count]
    return [_zone(network) for network in zones]


def _zone(network: IPv4Network) -> ZoneSubnets:
    private, rest = network.subnets(prefixlen_diff=1)
    public = next(rest.subnets(prefixlen_diff=1))
    return ZoneSubnets(public=str(public), private=str(private))
