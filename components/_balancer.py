"""The checks of a load balancer's arguments, and their defaults."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from components._args import LOG_RETENTION_DAYS, between, check_known, checked, one_of

# Balancers and target groups have names of 32 characters at most; "-alb" and the random suffix take 12 of them.
NAME_LIMIT = 20

# field -> default, least, most, unit
_NUMBERS: dict[str, tuple[int | None, int, int, str]] = {
    "idle_timeout_seconds": (None, 1, 4000, "seconds"),
    "client_keep_alive_seconds": (None, 60, 604_800, "seconds"),
    "deregistration_delay_seconds": (None, 0, 3600, "seconds"),
    "target_port": (8080, 1, 65_535, ""),
    "waf_requests_per_address": (20_000, 10, 2_000_000_000, "requests"),
}


def check_balancer(name: str, args: Mapping[str, Any], args_type: type) -> dict[str, Any]:
    """The arguments with numbers checked and their defaults filled in."""
    check_known("LoadBalancer", args, args_type)
    if len(name) > NAME_LIMIT:
        raise ValueError(f"LoadBalancer: name={name!r} makes AWS names over 32 characters; use {NAME_LIMIT} at most.")
    _check_callers(args)
    _check_names(args)
    given: dict[str, Any] = dict(args)
    for field, (default, low, high, unit) in _NUMBERS.items():
        given[field] = checked("LoadBalancer", field, given.get(field, default), between(low, high, unit))
    days = args.get("waf_log_retention_days", 30)
    given["waf_log_retention_days"] = checked(
        "LoadBalancer", "waf_log_retention_days", days, one_of(LOG_RETENTION_DAYS, "days")
    )
    return given


def _check_callers(args: Mapping[str, Any]) -> None:
    cidrs = args.get("ingress_cidrs", ["0.0.0.0/0"])
    if not cidrs:
        raise ValueError(
            "LoadBalancer: ingress_cidrs=[] lets nobody in; name the ranges, or leave it out for everyone."
        )
    for cidr in cidrs:
        try:
            ipaddress.IPv4Network(cidr)
        except ValueError as error:
            raise ValueError(f"LoadBalancer: ingress_cidrs={cidr!r} is no IPv4 range ({error}).") from None


def _check_names(args: Mapping[str, Any]) -> None:
    """Domain, zone and certificate must add up to a listener that can work."""
    domain, certificate = args.get("domain_name"), args.get("certificate_arn")
    zone, create = args.get("hosted_zone_id"), args.get("create_hosted_zone", False)
    if domain is None and (zone is not None or create):
        raise ValueError("LoadBalancer: a hosted zone without domain_name serves nothing; set domain_name.")
    if zone is not None and create:
        raise ValueError("LoadBalancer: hosted_zone_id and create_hosted_zone exclude each other; keep one of them.")
    if domain is not None and certificate is None and zone is None and not create:
        raise ValueError(
            f"LoadBalancer: domain_name={domain!r} needs hosted_zone_id or create_hosted_zone to prove the domain to "
            "ACM, or certificate_arn of a certificate that exists."
        )
    if domain is None and certificate is None and not args.get("allow_plain_http", False):
        raise ValueError(
            "LoadBalancer: without domain_name or certificate_arn, prompts and keys would travel unencrypted; set one, "
            "or accept it with allow_plain_http=True."
        )
