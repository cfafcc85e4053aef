"""What every request leans on, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from app.aws import Aws
from app.budgets.control import ControlSource
from app.budgets.gate import BudgetGate
from app.budgets.watch import default_limits, watcher
from app.budgets.watcher import Watcher
from app.cache.answers import Answers
from app.cache.scripts import SCRIPTS as CACHE_SCRIPTS
from app.container import Container, container
from app.key_store import KeyStore
from app.ledger import Ledger
from app.limits import SCRIPTS, Limiter
from app.models import ModelSource
from app.observability.metrics import QUEUE_WAIT_MS, TELEMETRY_DROPPED, Metrics
from app.secret import OpenAIKey
from app.settings import Settings
from app.table_probe import TableProbe
from app.valkey.client import Valkey

log = logging.getLogger(__name__)


@dataclass
class Services:
    """The state and the services of one process: the request path, the product and the worker share one."""

    settings: Settings
    container: Container
    models: ModelSource
    keys: KeyStore
    openai_key: OpenAIKey
    cache: Answers
    limiter: Limiter
    control: ControlSource
    budgets: BudgetGate
    watcher: Watcher | None
    ledger: Ledger
    metrics: Metrics
    aws: Aws
    valkey: Valkey
    table_probe: TableProbe
    draining: bool = False
    """Set once, when the process was told to stop: /health/ready fails from then on."""

    @classmethod
    async def start(cls, settings: Settings) -> Services:
        """Connect to everything, in parallel and each within its own bound; nothing that is away makes this fail."""
        size = await asyncio.to_thread(container, settings.metadata_uri)
        log.info("sized", extra={"fields": size.as_fields()})
        aws = Aws(settings.aws_region, settings.aws_endpoint_url)
        valkey = Valkey(settings, aws, max_connections=size.cache_connections, scripts=(*SCRIPTS, *CACHE_SCRIPTS))
        models = ModelSource(settings, aws)
        ledger = Ledger(aws, settings.ledger_table, defaults=default_limits(settings), zone=settings.budget_zone)
        metrics = Metrics(settings.stack, settings.service, meter_alive=ledger.alive)
        control = ControlSource(aws, settings.state_table)
        services = cls(
            settings=settings,
            container=size,
            models=models,
            keys=KeyStore(aws, settings.state_table, max_entries=size.identity_entries),
            openai_key=OpenAIKey(aws, settings.openai_secret_arn),
            limiter=Limiter(
                valkey,
                lambda: models.current.limits,
                max_local_keys=size.identity_entries,
                max_waiting=size.max_waiting,
                address=settings.openai_base_url,
                waited=lambda seconds: metrics.observe(QUEUE_WAIT_MS, seconds * 1000),
            ),
            cache=Answers(valkey, size.answer_bytes),
            ledger=ledger,
            control=control,
            budgets=BudgetGate(control, metrics),
            watcher=watcher(settings, aws, ledger, lambda: models.current),
            metrics=metrics,
            aws=aws,
            valkey=valkey,
            table_probe=TableProbe(aws, settings.state_table),
        )
        metrics.gauges = services.limiter.figures
        await asyncio.gather(
            models.start(),
            valkey.start(),
            services.openai_key.get(),
            services.table_probe.check(),
            control.start(),
            services.metrics.run(),
        )
        ledger.start()
        await services.cache.watch.start()
        services.limiter.start()
        if settings.otlp_endpoint:
            from app.observability.telemetry import Telemetry  # nobody else pays for it

            dropped = partial(services.metrics.count, TELEMETRY_DROPPED)
            telemetry = Telemetry(settings.otlp_endpoint, settings.stack, settings.service, dropped=dropped)
            services.metrics.telemetry = telemetry
            telemetry.start()
        if services.watcher is not None:
            services.watcher.start()
        return services

    async def stop(self) -> None:
        """Write what is pending (dollars first), then close every connection; safe to call twice."""
        if self.watcher is not None:
            await self.watcher.stop()
        await self.ledger.stop()
        await self.limiter.stop()
        await self.control.stop()
        await self.cache.watch.stop()
        await self.models.stop()
        if self.metrics.telemetry is not None:
            await self.metrics.telemetry.stop()
        await self.metrics.stop()
        await self.valkey.stop()
        self.aws.close()
