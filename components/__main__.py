"""Serves the components to programs in any Pulumi language: `pulumi package get-schema ./components` runs this."""

import sys
from pathlib import Path

# Started by this folder's path, Python looks for modules inside the folder: it would miss `components` and find our
# queue.py when it means its own.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pulumi.provider.experimental import component_provider_host

from components.alarms import Alarms
from components.api_key import ApiKey
from components.cache import Cache
from components.container_service import ContainerService
from components.cost_alarms import CostAlarms
from components.encryption import Encryption
from components.image import Image
from components.load_balancer import LoadBalancer
from components.model_config import ModelConfig
from components.network import Network
from components.queue import Queue
from components.scheduled_job import ScheduledJob
from components.storage import Storage
from components.topic import Topic

COMPONENTS = [
    Alarms,
    ApiKey,
    Cache,
    ContainerService,
    CostAlarms,
    Encryption,
    Image,
    LoadBalancer,
    ModelConfig,
    Network,
    Queue,
    ScheduledJob,
    Storage,
    Topic,
]

if __name__ == "__main__":
    component_provider_host(name="prodkit", components=COMPONENTS)
