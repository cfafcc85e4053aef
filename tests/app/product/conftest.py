"""The product on the real pipeline: the simulator stands in for OpenAI, the emulated AWS for AWS."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import httpx2
import pytest
import uvicorn

from app.keys import Identity, create_key
from app.pipeline import Pipeline
from app.product.documents import Documents, Job
from app.product.gateway import Gateway
from app.product.ingest import Ingest
from app.product.routes import documents_of
from app.services import Services
from app.serving.web import WebApp, create_app
from app.settings import Settings
from app.upstream.pool import Upstream
from local.openai.server import Running, running
from tests.app.conftest import CloudParts
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(scope="session")
def simulator() -> Iterator[Running]:
    """One simulator for the whole run, fast; `upstream` resets it."""
    with running() as started:
        yield started


@pytest.fixture
def openai_settings(settings: Settings, simulator: Running, cloud: CloudParts) -> Settings:
    """Settings of a replica whose OpenAI is the simulator and whose key is set."""
    simulator.reset()
    key = "sk-" + secrets.token_hex(16)
    arn = cloud.client("secretsmanager").create_secret(Name=secrets.token_hex(8), SecretString=key)["ARN"]
    return replace(settings, openai_base_url=simulator.base_url, openai_secret_arn=arn)


@pytest.fixture
async def started(openai_settings: Settings) -> AsyncIterator[Services]:
    """The services of such a replica."""
    services = await Services.start(openai_settings)
    yield services
    await services.stop()


@pytest.fixture
async def pipeline(started: Services) -> AsyncIterator[Pipeline]:
    """The real pipeline, up to the simulator."""
    upstream = Upstream(started.settings.openai_base_url, connections=8, tcp_keep_alive_seconds=45)
    async with upstream:
        made = Pipeline(started, upstream)
        yield made
        await made.close()


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test has."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def identity(tenant: str) -> Identity:
    """A key of that tenant."""
    return Identity(tenant, secrets.token_hex(6), "test", "user", None, None)


@dataclass(frozen=True, slots=True)
class Site:
    """A web replica on loopback: its application, its address, and a key for `tenant`."""

    app: WebApp
    http: httpx2.AsyncClient
    tenant: str
    key: str

    async def learn(self, name: str, text: str) -> str:
        """Post a document and read it as the worker does; its id."""
        posted = await self.http.post("/documents", json={"name": name, "text": text})
        document_id: str = posted.json()["id"]
        services = self.app.services()
        ingest = Ingest(documents_of(services), Gateway(self.app.pipeline()), lambda: services.models.current.product)
        who = Identity(self.tenant, self.key.split("_")[1], "test", "user", None, None)
        assert await ingest.run(Job(self.tenant, document_id, who.key_id), who, "req_learn")
        return document_id


@pytest.fixture
async def site(openai_settings: Settings, cloud: CloudParts, tenant: str) -> AsyncIterator[Site]:
    """A web replica on a real socket, whose OpenAI is the simulator."""
    app = create_app(openai_settings)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, lifespan="on", log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    key = create_key(cloud.client("dynamodb"), openai_settings.state_table, tenant)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=PATIENCE_SECONDS
    ) as http:
        yield Site(app, http, tenant, key)
    server.should_exit = True
    await serving


@pytest.fixture
def documents(started: Services) -> Documents:
    """The documents of the emulated AWS."""
    settings = started.settings
    return Documents(
        started.aws,
        table=settings.state_table,
        bucket=settings.documents_bucket,
        queue_url=settings.queue_url,
        invalidate=started.cache.watch.invalidate,
    )
