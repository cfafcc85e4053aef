"""Serves the components to programs in any Pulumi language: `pulumi package get-schema ./components` runs this."""

import sys
from pathlib import Path

# Started by this folder's path, Python looks for modules inside the folder: it would miss `components` and find our
# queue.py when it means its own.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pulumi.provider.experimental import component_provider_host  # noqa: E402 - after the path above

from components.alarms import Alarms  # noqa: E402
from components.api_key import ApiKey  # noqa: E402
from components.cache import Cache  # noqa: E402
from components.container_service import ContainerService  # noqa: E402
from components.cost_alarms import CostAlarms  # noqa: E402
from components.encryption import Encryption  # noqa: E402
from components.image import Image  # noqa: E402
from components.load_balancer import LoadBalancer  # noqa: E402
from components.model_config import ModelConfig  # noqa: E402
from components.network import Network  # noqa: E402
from components.queue import Queue  # noqa: E402
from components.storage import Storage  # noqa: E402

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
    Storage,
]

if __name__ == "__main__":
    component_provider_host(name="prodkit", components=COMPONENTS)
