"""Which models answer and what they may do: one document, in the image or from AppConfig."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.aws import Aws, error_code
from app.budgets.policy import read_policy
from app.errors import ApiError
from app.limits import policy as rate_limits
from app.model_document import DocumentError, check
from app.prices import Price, Prices, Tariff, Usage, default_prices, is_regional
from app.settings import Settings

__all__ = ["Model", "ModelSource", "Models", "Price", "Product", "Usage", "default_document"]

log = logging.getLogger(__name__)

DEFAULT_DOCUMENT = Path(__file__).with_name("models.yaml")
POLL_SECONDS = 15  # the fastest that AppConfig allows
FIRST_READ_SECONDS = 3.0  # a start waits no longer: the image's document serves until AppConfig answers
MAX_DOCUMENT_BYTES = 1 << 20
CACHE_ROUTES = {"responses": "/v1/responses", "chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
"""Names of endpoints in the document's `cache.routes`, and their paths."""
DEFAULT_TOOLS = 128  # OpenAI's own bound of one request


@dataclass(frozen=True, slots=True)
class Model:
    """One model as the document allows it."""

    name: str
    """OpenAI's name, never an alias."""
    kind: str
    """`text`, `embedding` or `moderation`."""
    default_output_tokens: int
    max_output_tokens: int
    stop: tuple[str, ...]
    max_n: int
    timeout_seconds: int
    service_tiers: tuple[str, ...]
    """Never empty; the first is used when a request names none."""
    tariff: Tariff
    """What it costs, in each service tier."""
    max_tools: int
    first_token_timeout_seconds: int | None
    """For the first token of a stream, after which another model answers; None = only the deadline bounds it."""
    fallback: tuple[str, ...]
    """Models of the same kind that answer, in this order, when this one cannot."""

    @property
    def price(self) -> Price:
        """What it costs now in the standard tier; raises ApiError 503 `price_missing` when that is not known."""
        return self.tariff.price()


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long answers of one endpoint are kept, in seconds."""

    ttl_seconds: int
    """As good as new; 0 = not kept."""
    stale_seconds: int
    """After that, given once more while a new one is made."""


NOT_KEPT = CachePolicy(0, 0)


@dataclass(frozen=True, slots=True)
class Product:
    """What /ask and /documents use."""

    answer_model: str
    embedding_model: str
    top_k: int
    """Chunks that an answer is made of."""
    chunk_tokens: int


class Models:
    """A checked models document. Immutable: a request keeps the one it began with."""

    def __init__(self, document: Mapping[str, Any], prices: Prices | None = None) -> None:
        """`prices` are the image's when None. Raises DocumentError that names every fault of the document."""
        checked = check(document)
        prices = prices or default_prices()
        priced = {name: prices.tariff(name) for name in checked["models"]}
        missing = [name for name, tariff in priced.items() if tariff is None]
        if missing:
            text = "has no row in app/prices.yaml; add its prices there and deploy the image first"
            raise DocumentError([f"models.{name}: {text}" for name in missing])
        self.version: int = checked["version"]
        self.updated: str = checked["updated"]
        self.default_model: str = checked["default_model"]
        self.limits = rate_limits.read_policy(checked)
        self._cache = {path: _cache_policy(checked["cache"], name) for name, path in CACHE_ROUTES.items()}
        self.product = Product(**checked["product"])
        self.budget = read_policy(checked.get("budget"))
        self._aliases: dict[str, str] = dict(checked["aliases"])
        self._models = {
            name: _model(name, checked["models"][name], checked["limits"], tariff)
            for name, tariff in priced.items()
            if tariff is not None
        }
        _check_cheaper(self._models, self.budget.cheaper)

    def cache_policy(self, path: str) -> CachePolicy:
        """How answers of an endpoint are kept; not at all for a path that is not in CACHE_ROUTES."""
        return self._cache.get(path, NOT_KEPT)

    def resolve(self, name: str, kind: str) -> Model:
        """The model behind a name or an alias; raises ApiError 404 `model_not_found` that lists the allowed ones."""
        model = self._models.get(self._aliases.get(name, name))
        if model is None or model.kind != kind:
            allowed = ", ".join(self.names(kind))
            text = f"The model '{name[:100]}' is not served here for this endpoint. Allowed: {allowed}."
            raise ApiError("model_not_found", text, param="model")
        return model

    def names(self, kind: str) -> tuple[str, ...]:
        """Every name of a kind that `resolve` takes: aliases first, then the models' own."""
        aliases = [alias for alias, target in self._aliases.items() if self._models[target].kind == kind]
        return (*aliases, *(name for name, model in self._models.items() if model.kind == kind))


class ModelSource:
    """The document in force: the image's, until AppConfig gives a good one; then the last good one."""

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self._prices = default_prices(regional=is_regional(settings.openai_base_url))
        self.current = Models(default_document(), self._prices)
        self.source = "image"
        """Where `current` comes from: `image` or `appconfig`."""
        self.problem = ""
        """Why the last document or poll was no good; empty when it was."""
        self._settings = settings
        self._aws = aws
        self._token: str | None = None
        self._refused = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read AppConfig once, within FIRST_READ_SECONDS, and begin to poll it; does nothing when it is not used."""
        if not self._settings.uses_appconfig:
            return
        first = asyncio.create_task(self.poll(), name="models-first")
        await asyncio.wait([first], timeout=FIRST_READ_SECONDS)
        self._task = asyncio.create_task(self._poll_forever(first), name="models")

    async def stop(self) -> None:
        """Stop polling. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def poll(self) -> int:
        """Take a new document when there is one; returns the seconds to wait before the next poll; never raises."""
        try:
            answer, body = await self._aws.run(self._read)
            if body:
                self._take(body)
            else:
                self._note(self._refused)  # nothing new: a document refused before is still the deployed one
            return max(POLL_SECONDS, int(answer.get("NextPollIntervalInSeconds") or POLL_SECONDS))
        except DocumentError as error:
            self._refused = str(error)
            self._note(self._refused)
        except Exception as error:
            self._token = None  # a token is good for one use; the next poll begins a new session
            self._note(error_code(error))
        return POLL_SECONDS

    async def _poll_forever(self, first: asyncio.Task[int]) -> None:
        wait = await first
        while True:
            await asyncio.sleep(wait)
            wait = await self.poll()

    def _read(self) -> tuple[dict[str, Any], bytes]:
        client = self._aws.client("appconfigdata")
        if self._token is None:
            session = client.start_configuration_session(
                ApplicationIdentifier=self._settings.appconfig_application,
                EnvironmentIdentifier=self._settings.appconfig_environment,
                ConfigurationProfileIdentifier=self._settings.appconfig_profile,
                RequiredMinimumPollIntervalInSeconds=POLL_SECONDS,
            )
            self._token = session["InitialConfigurationToken"]
        answer = client.get_latest_configuration(ConfigurationToken=self._token)
        self._token = answer["NextPollConfigurationToken"]
        with contextlib.closing(answer["Configuration"]) as stream:
            return answer, stream.read(MAX_DOCUMENT_BYTES + 1)

    def _take(self, body: bytes) -> None:
        if len(body) > MAX_DOCUMENT_BYTES:
            raise DocumentError([f"it has more than {MAX_DOCUMENT_BYTES} bytes"])
        try:
            document = json.loads(body)
        except ValueError as error:
            raise DocumentError([f"it is not JSON: {error}"]) from error
        self.current = Models(document, self._prices)
        self.source = "appconfig"
        self._refused = self.problem = ""
        log.info("models document in force", extra={"fields": {"version": self.current.version}})

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            fields = {"problem": problem, "kept_version": self.current.version, "source": self.source}
            log.error("models document refused or not readable; the last good one stays", extra={"fields": fields})
        self.problem = problem


def default_document() -> dict[str, Any]:
    """The document inside the image, as plain data."""
    import yaml

    return check(yaml.safe_load(DEFAULT_DOCUMENT.read_text(encoding="utf-8")))


def _check_cheaper(models: Mapping[str, Model], cheaper: Mapping[str, str]) -> None:
    """Raises DocumentError when a budget would be saved by a model that costs more."""
    problems = []
    for name, other in cheaper.items():
        # Of an ended price list there is nothing to compare; every call is refused for that anyway.
        with contextlib.suppress(ApiError):
            now, then = models[name].price, models[other].price
            if then.input > now.input or then.output > now.output:
                problems.append(f"budget.cheaper.{name}: {other!r} costs more than {name}")
    if problems:
        raise DocumentError(problems)


def _model(name: str, entry: Mapping[str, Any], limits: Mapping[str, Any], tariff: Tariff) -> Model:
    caps = entry.get("output_tokens", limits["output_tokens"])
    return Model(
        name=name,
        kind=entry["kind"],
        default_output_tokens=caps["default"],
        max_output_tokens=caps["maximum"],
        stop=tuple(entry.get("stop", limits["stop"])),
        max_n=limits["n"],
        timeout_seconds=limits["request_timeout_seconds"],
        service_tiers=tuple(limits["service_tiers"]),
        tariff=tariff,
        max_tools=limits.get("tools", DEFAULT_TOOLS),
        first_token_timeout_seconds=entry.get("first_token_timeout_seconds", limits.get("first_token_timeout_seconds")),
        fallback=tuple(entry.get("fallback", ())),
    )


def _cache_policy(cache: Mapping[str, Any], route: str) -> CachePolicy:
    """A route's own values, else the document's."""
    own = cache.get("routes", {}).get(route, {})
    stale = own.get("stale_seconds", cache.get("stale_seconds", 0))
    return CachePolicy(own.get("ttl_seconds", cache["ttl_seconds"]), stale)
