from ipaddress import IPv4Network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components._cidr import MAX_ZONES, parse, plan, refuse_overlap

PREFIXES = st.integers(16, 23)
ZONES = st.integers(1, MAX_ZONES)


@st.composite
def networks(draw: st.DrawFn) -> str:
    prefix = draw(PREFIXES)
    index = draw(st.integers(0, 2 ** (prefix - 8) - 1))
    return f"{IPv4Network((10 * 2**24 + index * 2 ** (32 - prefix), prefix))}"


@given(networks(), ZONES)
def test_subnets_lie_in_the_network_and_share_no_address(cidr: str, zones: int) -> None:
    subnets = [IPv4Network(text) for zone in plan(cidr, zones) for text in (zone.public, zone.private)]
    assert len(subnets) == 2 * zones
    assert all(subnet.subnet_of(IPv4Network(cidr)) for subnet in subnets)
    assert not any(a.overlaps(b) for a, b in combinations(subnets, 2))


@given(networks(), ZONES)
def test_every_public_subnet_has_room_for_a_load_balancer_and_every_private_one_for_more(cidr: str, zones: int) -> None:
    for zone in plan(cidr, zones):
        public, private = IPv4Network(zone.public), IPv4Network(zone.private)
        assert public.prefixlen <= 27
        assert private.num_addresses == 2 * public.num_addresses


@given(networks(), st.integers(1, MAX_ZONES - 1))
def test_another_zone_moves_no_existing_subnet(cidr: str, zones: int) -> None:
    assert plan(cidr, zones + 1)[:zones] == plan(cidr, zones)


def test_the_usual_network_is_cut_like_this() -> None:
    assert [(zone.private, zone.public) for zone in plan("10.0.0.0/16", 3)] == [
        ("10.0.0.0/19", "10.0.32.0/20"),
        ("10.0.64.0/19", "10.0.96.0/20"),
        ("10.0.128.0/19", "10.0.160.0/20"),
    ]


@pytest.mark.parametrize(
    ("cidr", "fix"),
    [
        ("10.0.0.0", r"write 10\.0\.0\.0/32"),
        ("ten", "write it like 10.0.0.0/16"),
        ("10.0.0.0/33", "write it like 10.0.0.0/16"),
        ("fd00::/16", "write it like 10.0.0.0/16"),
        ("10.0.0.1/16", r"write 10\.0\.0\.0/16\."),
        ("10.0.0.0/15", "choose a network from /16 to /23"),
        ("10.0.0.0/24", "choose a network from /16 to /23"),
        ("8.8.0.0/16", "is not private"),
        ("172.32.0.0/16", "is not private"),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused_with_the_fix(cidr: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        plan(cidr, 2)


def test_a_fifth_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 1 to 4 zones, not 5"):
        plan("10.0.0.0/16", 5)


@given(networks(), networks())
def test_exactly_the_networks_that_share_an_address_are_refused(cidr: str, other: str) -> None:
    if parse(cidr).overlaps(parse(other)):
        with pytest.raises(ValueError, match=f"overlaps {other}"):
            refuse_overlap(cidr, [other])
    else:
        refuse_overlap(cidr, [other])


def test_a_reserved_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'office', which is not a network"):
        refuse_overlap("10.0.0.0/16", ["office"])
