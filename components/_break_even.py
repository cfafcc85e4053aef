"""From how much traffic on a private address of an AWS service costs less than the way through a NAT gateway."""

from collections.abc import Iterable, Mapping
from decimal import ROUND_UP, Decimal

from components._prices import HOURS_A_MONTH, usd

# What tasks on Fargate and their agent call. Image layers come from S3 and the app's state from DynamoDB, whose
# gateways are free; KMS is called by the services, not by the tasks.
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html#ecr-setting-up-vpc-create
SERVICES = ("appconfigdata", "ecr.api", "ecr.dkr", "logs", "secretsmanager", "sqs")


def endpoint_usd(zone_count: int) -> Decimal:
    """What one endpoint costs a month before any traffic: an hourly price in each zone."""
    return usd("interface_endpoint") * HOURS_A_MONTH * zone_count


def saved_usd_per_gb(has_nat: bool) -> Decimal:
    """What a GB saves by not taking the other way; negative when there is nothing to save.

    With a public address and no NAT gateway the way to AWS in the same region is free.
    """
    return (usd("nat_data") if has_nat else Decimal(0)) - usd("interface_endpoint_data")


def break_even_gb(zone_count: int, has_nat: bool) -> Decimal | None:
    """GB a month from which on an endpoint pays, rounded up to a whole one; None when it never does."""
    saved = saved_usd_per_gb(has_nat)
    return (endpoint_usd(zone_count) / saved).to_integral_value(ROUND_UP) if saved > 0 else None


def worth_having(services: Iterable[str], traffic_gb: Mapping[str, float], zone_count: int, has_nat: bool) -> list[str]:
    """Those of `services` whose traffic (GB a month) reaches the break-even; one that is not named has none."""
    least = break_even_gb(zone_count, has_nat)
    return [service for service in services if least is not None and traffic_gb.get(service, 0) >= least]
