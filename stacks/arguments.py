"""Component arguments that depend on which settings were given: what is not set is left out, so that defaults apply."""

import json
from pathlib import Path
from typing import Final, TypedDict

import pulumi
import yaml

from components._policies import pull_images
from components._rollout import Rollout
from components._task import CONTAINER_NAME
from components._timeouts import Timeouts
from components.cache import CacheArgs, CacheMode
from components.container_service import ContainerService
from components.cost_alarms import CostAlarmsArgs
from components.encryption import Encryption
from components.image import Image
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.network import Network, NetworkArgs
from components.storage import Storage
from components.topic import Topic
from dynamic.image_build import ImageBuild
from dynamic.rollout import RolloutArgs
from stacks.environment import HEALTH_PATH, PORT, Service
from stacks.images import in_ecr, is_own
from stacks.planning import traffic_gb
from stacks.settings import COST_TAG_KEY, Settings

APP: Final = Path(__file__).resolve().parent.parent / "app"


def network_args(settings: Settings, encryption: Encryption) -> NetworkArgs:
    """A network of the stack's own, or the existing one."""
    if settings.vpc_id:
        return {
            "vpc_id": settings.vpc_id,
            "public_subnet_ids": list(settings.public_subnet_ids),
            "private_subnet_ids": list(settings.private_subnet_ids),
            "tags": settings.tags,
        }
    return {
        "cidr": settings.vpc_cidr,
        "zone_count": settings.zone_count,
        "nat": settings.nat,
        "interface_endpoints": settings.interface_endpoints,
        "endpoint_traffic_gb": traffic_gb(settings),
        "reserved_cidrs": list(settings.reserved_cidrs),
        "flow_log_retention_days": settings.log_retention_days,
        "logs_key_arn": encryption.logs_key_arn,
        "tags": settings.tags,
    }


def cache_args(settings: Settings, network: Network, encryption: Encryption) -> CacheArgs:
    """A cache beside the tasks; node types exist only where there are nodes."""
    args: CacheArgs = {
        "vpc_id": network.vpc_id,
        "subnet_ids": network.task_subnet_ids,
        "key_arn": encryption.data_key_arn,
        "mode": settings.cache_mode,
        "tags": settings.tags,
    }
    if settings.cache_mode is CacheMode.REPLICATED:
        args["node_type"] = settings.cache_node_type
    return args


def balancer_args(
    settings: Settings, timeouts: Timeouts, network: Network, storage: Storage, encryption: Encryption
) -> LoadBalancerArgs:
    """The balancer, and the one way in which the certificate of its name is proved."""
    args: LoadBalancerArgs = {
        "vpc_id": network.vpc_id,
        "subnet_ids": network.public_subnet_ids,
        "access_logs_bucket": storage.logs_bucket,
        "idle_timeout_seconds": timeouts.alb_idle_seconds,
        "client_keep_alive_seconds": timeouts.client_keep_alive_seconds,
        "deregistration_delay_seconds": timeouts.deregistration_delay_seconds,
        "shift_traffic": settings.rollout is not Rollout.ROLLING,
        "target_port": PORT,
        "health_check_path": HEALTH_PATH,
        "allow_plain_http": settings.allow_plain_http,
        "waf": settings.waf,
        "waf_log_retention_days": settings.log_retention_days,
        "logs_key_arn": encryption.logs_key_arn,
        "protect": settings.protect,
        "tags": settings.tags,
    }
    if settings.domain_name:
        args["domain_name"] = settings.domain_name
    if settings.certificate_arn:
        args["certificate_arn"] = settings.certificate_arn
    if settings.hosted_zone_id:
        args["hosted_zone_id"] = settings.hosted_zone_id
    if settings.create_hosted_zone:
        args["create_hosted_zone"] = True
    return args


def cost_args(settings: Settings, topic: Topic) -> CostAlarmsArgs:
    """Both budgets, and the anomaly monitor to adopt, if any."""
    args: CostAlarmsArgs = {
        "stack": settings.stack,
        "monthly_budget_usd": settings.monthly_budget_usd,
        "token_budget_usd": settings.token_budget_usd,
        "email": settings.alert_emails,
        "topic_arn": topic.arn,
        "cost_tag_key": COST_TAG_KEY,
        "cost_tag_value": settings.stack,
        "tags": settings.tags,
    }
    if settings.anomaly_monitor_arn:
        args["anomaly_monitor_arn"] = settings.anomaly_monitor_arn
    return args


def model_document() -> str:
    """The app's model configuration as JSON."""
    return json.dumps(yaml.safe_load((APP / "models.yaml").read_text()), default=str)


def model_schema() -> str:
    """The JSON Schema that AppConfig checks the model configuration against."""
    return (APP / "models.schema.json").read_text()


def target_group_suffixes(settings: Settings, balancer: LoadBalancer) -> list[pulumi.Input[str]]:
    """Every target group that web tasks may be in."""
    if settings.rollout is Rollout.ROLLING:
        return [balancer.target_group_suffix]
    return [balancer.target_group_suffix, balancer.alternate_target_group_suffix]


def outcome_args(settings: Settings, service: Service, deployed: ContainerService) -> RolloutArgs:
    """What is waited for after a service was created or updated."""
    return {
        "cluster": deployed.cluster_name,
        "service": deployed.service_name,
        "task_definition_arn": deployed.task_definition_arn,
        "log_group": deployed.log_group_name,
        "log_prefix": f"{service.value}/{CONTAINER_NAME}",
        "timeout_seconds": deployed.deployment_seconds,
        "region": settings.region,
    }


class DeployedImage(TypedDict):
    """The image that tasks run, and the grants that starting one needs."""

    uri: pulumi.Input[str]
    pull: dict[str, pulumi.Input[str]]


def deployed_image(settings: Settings, storage: Storage, encryption: Encryption) -> DeployedImage:
    """The image that was given by digest, or the app built on AWS when its source changed.

    One that was promoted into the stack's own repository is given too: the repository stays, and nothing is built.
    """
    given = in_ecr(settings.image_uri)
    own = given is not None and is_own(given, settings.stack, settings.region, settings.account_ids)
    if settings.image_uri and not own:
        return {"uri": settings.image_uri, "pull": {} if given is None else {"pull": pull_images(given.repository_arn)}}
    image = Image(
        "image",
        {
            "source_path": str(APP),
            "source_bucket": storage.data_bucket,
            "source_bucket_arn": storage.data_bucket_arn,
            "key_arn": encryption.data_key_arn,
            "logs_key_arn": encryption.logs_key_arn,
            "architecture": settings.architecture,
            "force_destroy": not settings.protect,
            "tags": settings.tags,
        },
    )
    if own:
        return {"uri": settings.image_uri, "pull": {"pull": image.pull_policy}}
    build = ImageBuild(
        "image-build",
        {
            "project_name": image.build_project_name,
            "repository_name": image.repository_name,
            "repository_url": image.repository_url,
            "image_tag": image.image_tag,
            "region": settings.region,
        },
    )
    return {"uri": build.image_uri, "pull": {"pull": image.pull_policy}}
