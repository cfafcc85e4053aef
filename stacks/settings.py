"""What a stack may be told, read once and checked before anything registers.

Defaults live in `Pulumi.yaml` and nowhere else, so that the command, the preflight and the tests see the same.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints

import pulumi

from components import _capacity
from components._args import did_you_mean
from components._fargate import Architecture
from components._rollout import Rollout
from components.cache import CacheMode
from components.network import InterfaceEndpoints, Nat
from stacks import checks
from stacks.keys import PROJECT, setting_key

COST_TAG_KEY: Final = "prodkit:stack"


class SettingsError(pulumi.RunError):
    """Settings are wrong; the text has a line for each with its key, value and fix. No traceback is shown."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = "a setting is wrong" if count == 1 else f"{count} settings are wrong"
        super().__init__("\n  - ".join([f"{heading}, nothing was registered:", *self.problems]))


@dataclass(frozen=True, slots=True)
class Settings:
    """A stack's settings. Field `web_min_tasks` is configuration key `prodkit:webMinTasks`."""

    stack: str
    """Name of the stack, such as `dev`."""
    region: str
    """`aws:region`."""
    account_ids: tuple[str, ...]
    """`aws:allowedAccountIds`: the provider refuses any other account."""

    max_stream_seconds: int
    """Longest streamed answer; timeouts and drains derive from it."""
    openai_base_url: str
    """Address of the OpenAI API, https, without a slash at the end."""
    otlp_endpoint: str
    """Base address of an OpenTelemetry collector, https; empty: no export."""
    rotation_days: int
    """Days after which the OpenAI key is replaced; 0 turns that off."""
    openai_project_id: str
    """OpenAI project of the key, for its rotation."""
    openai_service_account_id: str
    """Service account in that project that gets new keys."""
    image_uri: str
    """Image by digest to deploy; empty builds the app."""
    architecture: Architecture
    """Processor of tasks and image."""

    web_cpu: int
    """CPU units of a web task, 1024 a vCPU."""
    web_memory_mib: int
    """Memory of a web task in MiB."""
    web_min_tasks: int
    """Fewest web tasks."""
    web_max_tasks: int
    """Most web tasks."""
    web_target_in_flight: int
    """Requests in flight per web task that autoscaling aims at."""
    requests_per_minute: int
    """OpenAI quota of the stack's project."""
    tokens_per_minute: int
    """OpenAI quota of the stack's project."""
    plan_request_seconds: int
    """Planning assumption: mean time of a request."""
    plan_tokens_per_request: int
    """Planning assumption: mean tokens that OpenAI counts for a request."""
    worker_cpu: int
    """CPU units of a worker task, 1024 a vCPU."""
    worker_memory_mib: int
    """Memory of a worker task in MiB."""
    worker_min_tasks: int
    """Fewest worker tasks."""
    worker_max_tasks: int
    """Most worker tasks."""
    worker_target_backlog: int
    """Queued messages per worker task that autoscaling aims at."""
    worker_spot_percent: int
    """Share of worker tasks on Fargate Spot, 0-100."""

    rollout: Rollout
    """How a new version of the web service takes over."""
    rollout_percent: int
    """Share of requests that a canary starts with or each linear step adds."""
    rollout_step_minutes: int
    """Minutes that the canary or each linear step is watched."""
    rollout_bake_minutes: int
    """Minutes that old tasks are kept after all requests moved."""

    vpc_cidr: str
    """Private range of the VPC."""
    reserved_cidrs: tuple[str, ...]
    """Ranges reached by peering or VPN, which the VPC must not overlap."""
    zone_count: int
    """Availability zones used."""
    nat: Nat
    """How tasks reach the internet."""
    interface_endpoints: InterfaceEndpoints
    """Which AWS services are reached by private addresses."""
    vpc_id: str
    """Existing VPC; empty makes one."""
    public_subnet_ids: tuple[str, ...]
    """Public subnets of the existing VPC."""
    private_subnet_ids: tuple[str, ...]
    """Private subnets of the existing VPC, with a route to NAT."""

    cache_mode: CacheMode
    """Serverless or nodes."""
    cache_node_type: str
    """Node type of a replicated cache."""

    domain_name: str
    """Name the service answers on; empty means the balancer's own."""
    hosted_zone_id: str
    """Existing Route 53 zone."""
    certificate_arn: str
    """Existing certificate."""
    create_hosted_zone: bool
    """Make a Route 53 zone."""
    allow_plain_http: bool
    """Serve without TLS: keys and prompts cross the internet in clear."""
    waf: bool
    """Web application firewall before the balancer."""

    separate_keys: bool
    """One KMS key per purpose instead of one for all."""
    protect: bool
    """Refuse to delete what holds data."""

    alert_emails: tuple[str, ...]
    """Who gets alarms and budget warnings."""
    monthly_budget_usd: int
    """AWS budget a month in USD."""
    alert_webhooks: tuple[str, ...]
    """HTTPS addresses that get the same, as SNS posts it."""
    token_budget_usd: int
    """OpenAI budget a month in USD: alarms on its pace, the ladder before its end, refusal at it."""
    budget_time_zone: str
    """IANA name of the zone whose days and months budgets are for."""
    anomaly_monitor_arn: str
    """Existing anomaly monitor; empty makes one."""
    log_retention_days: int
    """Days logs are kept."""
    allow_non_us_region: bool
    """Accept the latency and residency cost of a region outside the US."""

    @property
    def load(self) -> _capacity.Load:
        """The OpenAI quota, and what a web task is assumed to make of it."""
        return _capacity.Load(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            in_flight_per_task=self.web_target_in_flight,
            request_seconds=self.plan_request_seconds,
            tokens_per_request=self.plan_tokens_per_request,
        )

    @property
    def tags(self) -> dict[str, str]:
        """Tags of every resource; the stack's is the one that costs are allocated by."""
        return {"project": PROJECT, COST_TAG_KEY: self.stack}


def load() -> Settings:
    """The settings of the stack that is being evaluated.

    Raises SettingsError, naming every wrong key at once.
    """
    ours = {setting_key(field.name) for field in fields(Settings) if field.name != "stack"}
    # pulumi.Config answers for keys one knows; a misspelt one shows in what the command hands to the program.
    given = {key for key in pulumi.runtime.get_config_env() if key.startswith(f"{PROJECT}:")}
    values = {key: pulumi.Config(key.split(":")[0]).get(key.split(":")[1]) for key in ours | given}
    return parse(pulumi.get_stack(), {key: value for key, value in values.items() if value is not None})


def parse(stack: str, values: Mapping[str, str]) -> Settings:
    """Settings from whole configuration keys and their values as text; a number or boolean may be quoted.

    Raises SettingsError, naming every wrong key at once.
    """
    known = {setting_key(field.name): field.name for field in fields(Settings) if field.name != "stack"}
    problems = [f"{key} is unknown; {did_you_mean(key, known)}" for key in sorted(values) if key not in known]
    read: dict[str, Any] = {"stack": stack}
    for key, name in known.items():
        if key not in values:
            problems.append(f"{key} is not set; set it with: pulumi config set {key} VALUE -s {stack}")
            continue
        try:
            read[name] = _reader(_hints()[name])(values[key].strip())
        except ValueError as error:
            problems.append(f"{key}={values[key]!r} {error}")
    if len(read) < len(fields(Settings)):
        raise SettingsError(problems)
    settings = Settings(**read)
    problems += checks.problems(settings)
    if problems:
        raise SettingsError(problems)
    return settings


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _reader(kind: Any) -> Callable[[str], Any]:
    """A function from text to a value of the kind; its ValueError continues the sentence `key=value ...`."""
    if get_origin(kind) is tuple:
        assert get_args(kind) == (str, ...)
        return _read_list
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda text: _read_choice(kind, text)
    readers: dict[Any, Callable[[str], Any]] = {str: str, int: _read_int, bool: _read_bool}
    return readers[kind]


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("is not a whole number; write digits only, such as 3") from None


def _read_bool(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("is neither true nor false; write one of the two")
    return text.lower() == "true"


def _read_list(text: str) -> tuple[str, ...]:
    try:
        items = json.loads(text)
    except ValueError:
        items = None
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise ValueError('is not a list; write it as ["first", "second"]')
    return tuple(str(item).strip() for item in items)


def _read_choice(kind: type[Enum], text: str) -> Enum:
    choices = [str(member.value) for member in kind]
    if text not in choices:
        raise ValueError(f"is not a choice; {did_you_mean(text, choices)}")
    return kind(text)
