"""The stack: a client's way in at the top, what it leans on above it, who watches below. Settings in, outputs out."""

import pulumi

from components import _timeouts
from components._policies import grant, protect_tasks
from components.alarms import Alarms
from components.api_key import ApiKey
from components.cache import Cache
from components.container_service import ConnectionArgs, ContainerService
from components.cost_alarms import CostAlarms
from components.encryption import Encryption
from components.load_balancer import LoadBalancer
from components.model_config import ModelConfig
from components.network import Network
from components.queue import Queue
from components.storage import Storage
from components.topic import Topic
from dynamic.rollout import Rollout
from stacks import planning
from stacks import settings as stack_settings
from stacks.arguments import (
    balancer_args,
    cache_args,
    cost_args,
    deployed_image,
    model_document,
    model_schema,
    network_args,
    outcome_args,
    target_group_suffixes,
)
from stacks.environment import JOB_SECONDS, PORT, Service, task_environment
from stacks.rotation import by_hand, key_rotation
from stacks.suspense import suspense_settling

settings = stack_settings.load()
timeouts = _timeouts.derive(settings.max_stream_seconds)
tags = settings.tags

encryption = Encryption("encryption", {"separate_keys": settings.separate_keys, "tags": tags})
network = Network("network", network_args(settings, encryption))

api_key = ApiKey("api-key", {"key_arn": encryption.secrets_key_arn, "admin": settings.rotation_days > 0, "tags": tags})
storage = Storage(
    "storage",
    {
        "key_arn": encryption.data_key_arn,
        "protect": settings.protect,
        "force_destroy": not settings.protect,
        "tags": tags,
    },
)
queue = Queue(
    "queue",
    {"key_arn": encryption.messages_key_arn, "visibility_timeout_seconds": JOB_SECONDS, "tags": tags},
)
cache = Cache("cache", cache_args(settings, network, encryption))
models = ModelConfig("models", {"document": model_document(), "schema": model_schema(), "tags": tags})
topic = Topic(
    "topic",
    {
        "stack": settings.stack,
        "email": settings.alert_emails,
        "webhooks": settings.alert_webhooks,
        "key_arn": encryption.messages_key_arn,
        "tags": tags,
    },
)
image = deployed_image(settings, storage, encryption)

balancer = LoadBalancer("balancer", balancer_args(settings, timeouts, network, storage, encryption))
connections: list[ConnectionArgs] = [
    {"name": "cache", "security_group_id": cache.security_group_id, "port": cache.port}
]
grants = {
    "api-key": api_key.read_policy,
    "storage": storage.app_policy,
    "cache": cache.connect_policy,
    "models": models.read_policy,
}
web = ContainerService(
    "web",
    {
        "stack": settings.stack,
        "service": Service.WEB,
        "vpc_id": network.vpc_id,
        "subnet_ids": network.task_subnet_ids,
        "assign_public_ip": network.assign_public_ip,
        "image": image["uri"],
        "execution_policies": image["pull"],
        "command": Service.WEB.command,
        "environment": task_environment(Service.WEB, settings, api_key, storage, queue, cache, models, topic),
        "policies": {**grants, "queue": queue.send_policy, "alerts": topic.publish_policy},
        "cpu": settings.web_cpu,
        "memory_mib": settings.web_memory_mib,
        "architecture": settings.architecture,
        "min_tasks": settings.web_min_tasks,
        "max_tasks": settings.web_max_tasks,
        "target_in_flight_per_task": settings.web_target_in_flight,
        "stop_timeout_seconds": timeouts.container_stop_seconds,
        "deployment_seconds": timeouts.deployment_seconds,
        "port": PORT,
        "target_group_arn": balancer.target_group_arn,
        "load_balancer_security_group_id": balancer.security_group_id,
        "load_balancer_suffix": balancer.load_balancer_suffix,
        "target_group_suffixes": target_group_suffixes(settings, balancer),
        "wait_for_steady_state": False,
        "rollout": settings.rollout,
        "rollout_percent": settings.rollout_percent,
        "rollout_step_minutes": settings.rollout_step_minutes,
        "bake_minutes": settings.rollout_bake_minutes,
        "alternate_target_group_arn": balancer.alternate_target_group_arn,
        "listener_rule_arn": balancer.listener_rule_arn,
        "connections": connections,
        "log_retention_days": settings.log_retention_days,
        "logs_key_arn": encryption.logs_key_arn,
        "tags": tags,
    },
)
worker = ContainerService(
    "worker",
    {
        "stack": settings.stack,
        "service": Service.WORKER,
        "vpc_id": network.vpc_id,
        "subnet_ids": network.task_subnet_ids,
        "assign_public_ip": network.assign_public_ip,
        "image": image["uri"],
        "execution_policies": image["pull"],
        "command": Service.WORKER.command,
        "environment": task_environment(Service.WORKER, settings, api_key, storage, queue, cache, models, topic),
        "policies": {
            **grants,
            "queue": queue.consume_policy,
            # what it cannot finish at once it leaves to a later message
            "queue-send": queue.send_policy,
            "protection": grant(protect_tasks(web.cluster_arn)),
        },
        "cpu": settings.worker_cpu,
        "memory_mib": settings.worker_memory_mib,
        "architecture": settings.architecture,
        "min_tasks": settings.worker_min_tasks,
        "max_tasks": settings.worker_max_tasks,
        "spot_percent": settings.worker_spot_percent,
        "queue_name": queue.name,
        "target_backlog_per_task": settings.worker_target_backlog,
        "stop_timeout_seconds": timeouts.container_stop_seconds,
        "deployment_seconds": timeouts.deployment_seconds,
        "port": PORT,
        "connections": connections,
        "cluster_arn": web.cluster_arn,
        "cluster_name": web.cluster_name,
        "wait_for_steady_state": False,
        "log_retention_days": settings.log_retention_days,
        "logs_key_arn": encryption.logs_key_arn,
        "tags": tags,
    },
)

# Nothing waits for the services but these: a service that went back to its old version is steady too.
Rollout("web-rollout", outcome_args(settings, Service.WEB, web))
Rollout("worker-rollout", outcome_args(settings, Service.WORKER, worker))

alarms = Alarms(
    "alarms",
    {
        "stack": settings.stack,
        "topic_arn": topic.arn,
        "cluster_name": web.cluster_name,
        "web_service_name": web.service_name,
        "worker_service_name": worker.service_name,
        "load_balancer_suffix": balancer.load_balancer_suffix,
        "target_group_suffixes": target_group_suffixes(settings, balancer),
        "queue_name": queue.name,
        "dead_letter_name": queue.dead_letter_name,
        "web_log_group_name": web.log_group_name,
        "worker_log_group_name": worker.log_group_name,
        "tags": tags,
    },
)
costs = CostAlarms("costs", cost_args(settings, topic))
if settings.rotation_days:
    # Both need the admin key.
    suspense_settling(settings, network, encryption, api_key, storage, image, web, topic)
    rotation = key_rotation(settings, network, encryption, api_key, image, web, topic)
    pulumi.export("rotation", by_hand(rotation, network, web))
    pulumi.export("admin_secret_name", api_key.admin_secret_name)

pulumi.export("sums", planning.sums(settings))
pulumi.export("url", balancer.url)
pulumi.export("name_servers", balancer.name_servers)
pulumi.export("dashboard_url", alarms.dashboard_url)
pulumi.export("secret_name", api_key.secret_name)
pulumi.export("image", image["uri"])
pulumi.export("cluster", web.cluster_name)
pulumi.export("web_service", web.service_name)
pulumi.export("worker_service", worker.service_name)
pulumi.export("web_log_group", web.log_group_name)
pulumi.export("worker_log_group", worker.log_group_name)
pulumi.export("state_table", storage.state_table)
pulumi.export("ledger_table", storage.ledger_table)
pulumi.export("documents_bucket", storage.documents_bucket)
pulumi.export("queue_url", queue.url)
pulumi.export("dead_letter_queue", queue.dead_letter_name)
pulumi.export("cache_endpoint", cache.endpoint)
pulumi.export("topic", topic.arn)
pulumi.export("budget", costs.budget_name)
