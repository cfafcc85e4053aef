"""What makes a stack's settings impossible or dangerous. Each check yields one sentence: key, value and fix."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from components._args import LOG_RETENTION_DAYS
from components._capacity import quota_for
from components._cidr import refuse_overlap
from components._fargate import check_size
from components._rollout import LONGEST_BAKE_MINUTES
from components._rollout import problem as rollout_problem
from components._timeouts import derive
from components.cache import CacheMode
from components.network import Nat
from stacks.keys import setting_key

if TYPE_CHECKING:
    from stacks.settings import Settings

US_REGIONS: Final = ("us-east-1", "us-east-2", "us-west-1", "us-west-2")
# Zones that a new account gets; https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
ZONES_IN_SMALL_REGIONS: Final = {"us-west-1": 2}
MOST_ZONES: Final = 3

# field -> lowest, highest, unit
RANGES: Final = {
    "web_min_tasks": (1, 1000, "tasks"),
    "web_max_tasks": (1, 1000, "tasks"),
    "web_target_in_flight": (1, 10_000, "requests"),
    "requests_per_minute": (1, 10_000_000, "requests"),
    "tokens_per_minute": (1, 10_000_000_000, "tokens"),
    "plan_request_seconds": (1, 3600, "seconds"),
    "plan_tokens_per_request": (1, 2_000_000, "tokens"),
    "worker_min_tasks": (0, 1000, "tasks"),
    "worker_max_tasks": (1, 1000, "tasks"),
    "worker_target_backlog": (1, 10_000, "messages"),
    "worker_spot_percent": (0, 100, "percent"),
    "rollout_percent": (1, 50, "percent"),
    "rollout_step_minutes": (0, LONGEST_BAKE_MINUTES, "minutes"),
    "rollout_bake_minutes": (0, LONGEST_BAKE_MINUTES, "minutes"),
    "zone_count": (2, MOST_ZONES, "zones"),
    "rotation_days": (0, 90, "days"),
    "monthly_budget_usd": (1, 1_000_000, "USD"),
    "token_budget_usd": (1, 10_000_000, "USD"),
}
# field -> pattern, what it looks like
PATTERNS: Final = {
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "an AWS region such as us-east-1"),
    "image_uri": (r"\S+@sha256:[0-9a-f]{64}", "an image by digest such as repository@sha256:<64 hex digits>"),
    "openai_project_id": (r"proj_[A-Za-z0-9_-]+", "an OpenAI project id such as proj_abc"),
    "openai_service_account_id": (r"[A-Za-z0-9_-]+", "a service account id such as svc_acct_abc"),
    "vpc_id": (r"vpc-[0-9a-f]{8,17}", "a VPC id such as vpc-0123456789abcdef0"),
    "cache_node_type": (r"cache\.[a-z0-9]+\.[a-z0-9]+", "a node type such as cache.t4g.small"),
    "domain_name": (
        r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}",
        "a domain in small letters such as ai.example.com",
    ),
    "hosted_zone_id": (r"Z[A-Z0-9]{8,31}", "a Route 53 zone id such as Z0123456789ABCDEFGHIJ"),
    "certificate_arn": (
        r"arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate/[0-9a-f-]+",
        "an ACM certificate's ARN in the stack's region",
    ),
    "anomaly_monitor_arn": (
        r"arn:aws[a-z-]*:ce::\d{12}:anomalymonitor/[0-9a-f-]+",
        "a Cost Anomaly Detection monitor's ARN",
    ),
}
# list field -> pattern of each item, what it looks like
ITEM_PATTERNS: Final = {
    "account_ids": (r"\d{12}", 'quoted twelve-digit account ids such as "123456789012"'),
    "alert_emails": (r"[^@\s,]+@[^@\s,]+\.[^@\s,.]+", "addresses such as oncall@example.com"),
    "alert_webhooks": (r"https://[^\s/@?#,]+(/[^\s?#,]*)?", "https addresses without user and query"),
    "public_subnet_ids": (r"subnet-[0-9a-f]{8,17}", "subnet ids such as subnet-0123456789abcdef0"),
    "private_subnet_ids": (r"subnet-[0-9a-f]{8,17}", "subnet ids such as subnet-0123456789abcdef0"),
}
_REQUIRED_LISTS: Final = {
    "account_ids": "name the accounts this stack may be deployed to, or the wrong one is deployed to one day",
    "alert_emails": "name at least one address, or alarms reach nobody",
}


def problems(settings: "Settings") -> Iterator[str]:
    """Every reason to refuse the settings."""
    shape = [*_ranges(settings), *_patterns(settings), *_lists(settings)]
    yield from shape
    yield from _region(settings)
    yield from _sizes(settings)
    if not shape:  # what follows compares values that have the right shape
        yield from _capacity(settings)
        yield from _network(settings)
        yield from _adopted_network(settings)
        yield from _domain(settings)
        yield from _rotation(settings)
        yield from _rollout(settings)
    yield from _other_values(settings)


def _named(settings: "Settings", field: str) -> str:
    """`prodkit:key=value` as it would be written in the stack file."""
    value: Any = getattr(settings, field)
    shown = value.value if hasattr(value, "value") else list(value) if isinstance(value, tuple) else value
    text = str(shown).lower() if isinstance(shown, bool) else repr(shown) if shown == "" else str(shown)
    return f"{setting_key(field)}={text}"


def _ranges(settings: "Settings") -> Iterator[str]:
    for field, (low, high, unit) in RANGES.items():
        if not low <= getattr(settings, field) <= high:
            yield f"{_named(settings, field)} is out of range; choose {low} to {high} {unit}"


def _patterns(settings: "Settings") -> Iterator[str]:
    for field, (pattern, example) in PATTERNS.items():
        value = getattr(settings, field)
        if value and not re.fullmatch(pattern, value):
            yield f"{_named(settings, field)} has the wrong form; write {example}"


def _lists(settings: "Settings") -> Iterator[str]:
    for field, (pattern, example) in ITEM_PATTERNS.items():
        items = getattr(settings, field)
        wrong = [item for item in items if not re.fullmatch(pattern, item)]
        if wrong:
            yield f"{_named(settings, field)} has the wrong form at {wrong[0]!r}; write {example}"
        if len(set(items)) < len(items):
            yield f"{_named(settings, field)} says something twice; remove the repetition"
    for field, fix in _REQUIRED_LISTS.items():
        if not getattr(settings, field):
            yield f"{_named(settings, field)} is empty; {fix}"


def _region(settings: "Settings") -> Iterator[str]:
    zones = ZONES_IN_SMALL_REGIONS.get(settings.region, MOST_ZONES)
    if zones < settings.zone_count <= MOST_ZONES:
        yield (
            f"{_named(settings, 'zone_count')} is more than the {zones} zones of {settings.region}; "
            f"set it to {zones} or choose another region"
        )
    if settings.region not in US_REGIONS and not settings.allow_non_us_region:
        yield (
            f"{_named(settings, 'region')} is outside the US, where the OpenAI API is served: each call would cross an "
            "ocean (roughly 80-250 ms more a round trip) and prompts would leave the region where your data resides; "
            f"choose {', '.join(US_REGIONS)}, or accept both with prodkit:allowNonUsRegion=true"
        )


def _sizes(settings: "Settings") -> Iterator[str]:
    for role in ("web", "worker"):
        cpu, memory = f"{role}_cpu", f"{role}_memory_mib"
        try:
            check_size(getattr(settings, cpu), getattr(settings, memory))
        except ValueError as error:
            yield f"{_named(settings, cpu)}, {_named(settings, memory)}: {error}"
        low, high = f"{role}_min_tasks", f"{role}_max_tasks"
        if getattr(settings, low) > getattr(settings, high):
            yield f"{_named(settings, low)} is more than {_named(settings, high)}; raise the second or lower the first"


def _capacity(settings: "Settings") -> Iterator[str]:
    """More tasks than the OpenAI quota feeds only wait; the fewest ones are there for the zones, not for the load."""
    if settings.plan_request_seconds > settings.max_stream_seconds:
        yield (
            f"{_named(settings, 'plan_request_seconds')} is more than {_named(settings, 'max_stream_seconds')}, and a "
            "mean is never more than the longest; lower the first"
        )
    load, tasks = settings.load, settings.web_max_tasks
    useful = max(load.useful_tasks, settings.web_min_tasks)
    if tasks > useful:
        requests, tokens = quota_for(load, tasks)
        yield (
            f"{_named(settings, 'web_max_tasks')} is more than the OpenAI quota can feed: a task carries "
            f"{load.in_flight_per_task} requests in flight x 60 / {load.request_seconds} s = "
            f"{float(load.task_requests):.0f} requests a minute, x {load.tokens_per_request} = "
            f"{float(load.task_tokens):.0f} tokens a minute; lower it to {useful}, or set what OpenAI "
            f"grants you if that is at least prodkit:requestsPerMinute={requests} and prodkit:tokensPerMinute={tokens}"
        )


def _rollout(settings: "Settings") -> Iterator[str]:
    shift = (settings.rollout_percent, settings.rollout_step_minutes, settings.rollout_bake_minutes)
    found = rollout_problem(settings.rollout, *shift)
    if found:
        fields = ("rollout", "rollout_percent", "rollout_step_minutes", "rollout_bake_minutes")
        yield f"{', '.join(_named(settings, field) for field in fields)}: {found}"


def _network(settings: "Settings") -> Iterator[str]:
    try:
        refuse_overlap(settings.vpc_cidr, settings.reserved_cidrs)
    except ValueError as error:
        yield f"{_named(settings, 'vpc_cidr')} {error}"


def _adopted_network(settings: "Settings") -> Iterator[str]:
    if not settings.vpc_id:
        for field in ("public_subnet_ids", "private_subnet_ids"):
            if getattr(settings, field):
                yield f"{_named(settings, field)} needs prodkit:vpcId; set it, or remove the subnets"
        return
    if len(settings.public_subnet_ids) < 2:
        yield f"{_named(settings, 'public_subnet_ids')} is too few; a balancer needs two subnets in two zones"
    if settings.private_subnet_ids and settings.nat is Nat.NONE:
        yield (
            f"{_named(settings, 'nat')} with prodkit:privateSubnetIds: a private subnet without NAT cannot "
            "reach OpenAI; set prodkit:nat to what the VPC has (single or per_az), or leave out the private subnets"
        )
    if not settings.private_subnet_ids and settings.nat is not Nat.NONE:
        yield (
            f"{_named(settings, 'nat')} with an existing VPC needs prodkit:privateSubnetIds; "
            "set them, or set prodkit:nat to none to run tasks in the public subnets"
        )


def _domain(settings: "Settings") -> Iterator[str]:
    ways = [field for field in ("certificate_arn", "hosted_zone_id", "create_hosted_zone") if getattr(settings, field)]
    if settings.domain_name:
        if len(ways) != 1:
            found = " and ".join(_named(settings, field) for field in ways) or "none"
            yield (
                f"{_named(settings, 'domain_name')} needs exactly one of prodkit:hostedZoneId, "
                f"prodkit:createHostedZone and prodkit:certificateArn, found {found}; set one"
            )
        if settings.allow_plain_http:
            yield f"{_named(settings, 'allow_plain_http')} contradicts prodkit:domainName; remove one of them"
        return
    for field in ways:
        yield f"{_named(settings, field)} needs prodkit:domainName; set it"
    if not settings.allow_plain_http:
        yield (
            f"{_named(settings, 'domain_name')} means no TLS; set a domain, or accept that keys and prompts cross the "
            "internet in clear with prodkit:allowPlainHttp=true (for dev only)"
        )


def _rotation(settings: "Settings") -> Iterator[str]:
    for field in ("openai_project_id", "openai_service_account_id"):
        if settings.rotation_days and not getattr(settings, field):
            yield (
                f"{_named(settings, 'rotation_days')} needs {setting_key(field)}: new keys are made for one service "
                "account of one project; set it, or set prodkit:rotationDays to 0"
            )


def _other_values(settings: "Settings") -> Iterator[str]:
    try:
        derive(settings.max_stream_seconds)
    except ValueError as error:
        yield f"{_named(settings, 'max_stream_seconds')}: {error}"
    if settings.log_retention_days not in LOG_RETENTION_DAYS:
        nearest = min(LOG_RETENTION_DAYS, key=lambda days: abs(days - settings.log_retention_days))
        yield f"{_named(settings, 'log_retention_days')} is not a period CloudWatch has; the nearest is {nearest}"
    if not _is_zone(settings.budget_time_zone):
        yield (
            f"{_named(settings, 'budget_time_zone')} is not a time zone; write an IANA name such as UTC or "
            "America/New_York"
        )
    if not _is_api_address(settings.openai_base_url):
        yield (
            f"{_named(settings, 'openai_base_url')} is not an https address without user, query and final slash; "
            "write one such as https://api.openai.com/v1"
        )
    if settings.otlp_endpoint and not (
        _is_api_address(settings.otlp_endpoint) and urlsplit(settings.otlp_endpoint).port in (None, 443)
    ):
        yield (
            f"{_named(settings, 'otlp_endpoint')} is not an https address on port 443 without user, query and final "
            "slash; tasks reach nothing else; write one such as https://collector.example.com"
        )
    if settings.cache_mode is CacheMode.REPLICATED and not settings.cache_node_type:
        yield f"{_named(settings, 'cache_node_type')} is empty; write a node type such as cache.t4g.small"


def _is_zone(name: str) -> bool:
    try:
        return name == "UTC" or bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder
        return False


def _is_api_address(text: str) -> bool:
    try:
        url = urlsplit(text)
    except ValueError:  # such as an unfinished IPv6 address
        return False
    extras = url.query or url.fragment or url.username or text.endswith("/")
    return url.scheme == "https" and bool(url.hostname) and not extras
