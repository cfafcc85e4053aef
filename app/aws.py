"""AWS from the event loop: DynamoDB and secrets over our own connections, everything else by botocore in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from app.awsjson.client import Client
from app.awsjson.retry import MAX_ATTEMPTS
from app.awsjson.wire import SERVICES, Service

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from botocore.session import Session

T = TypeVar("T")

THREADS = 8
CONNECT_SECONDS = 1.0
READ_SECONDS = {
    "dynamodb": 1.5,
    "s3": 10.0,
    "sqs": 25.0,  # a long poll takes 20
    "secretsmanager": 3.0,
    "appconfigdata": 5.0,
}
DEFAULT_READ_SECONDS = 5.0


class Aws:
    """Calls to one region. botocore is imported by the first of them, not before: it costs 0.2 s and 8 MB; the first
    client of botocore's as much again."""

    def __init__(self, region: str, endpoint_url: str | None = None) -> None:
        """`endpoint_url` is the address of an emulated AWS, None for the real one."""
        self.region = region
        self._endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}
        self._spoken: dict[str, Client] = {}
        """Of services that are asked without a client of botocore's, in the loop that asked last."""
        self._session: Session | None = None
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="aws")
        self._closed = False

    def client(self, service: str) -> Any:
        """botocore's client of a service. Blocks while it is made: call it in a thread (see `run`)."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def credentials(self) -> tuple[str, str, str | None]:
        """Access key, secret key and session token in force; blocks; raises RuntimeError when there are none."""
        found = self._found()
        if found is None:
            raise RuntimeError("no AWS credentials; a task needs a task role, a laptop AWS_ACCESS_KEY_ID")
        frozen = found.get_frozen_credentials()
        if frozen.access_key is None or frozen.secret_key is None:
            raise RuntimeError("the AWS credentials have no access key")
        return frozen.access_key, frozen.secret_key, frozen.token

    async def call(self, service: str, operation: str, /, **parameters: Any) -> Any:
        """The answer of one operation by its Python name, e.g. `call("s3", "put_object", Bucket=..., ...)`.

        Raises botocore's ClientError or BotoCoreError. A cancelled caller does not stop the operation itself.
        """
        spoken = SERVICES.get(service)
        if spoken is not None and operation in spoken.operations:
            return await self._speaking(spoken).call(operation, parameters)
        return await self.run(lambda: getattr(self.client(service), operation)(**parameters))

    async def run(self, function: Callable[[], T]) -> T:
        """The result of a blocking function (one that reads an S3 body, say) in one of the threads for AWS."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """Close connections; operations not yet begun are dropped. Safe to call twice."""
        self._closed = True
        for spoken in self._spoken.values():
            spoken.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _speaking(self, service: Service) -> Client:
        found = self._spoken.get(service.name)
        if found is None or found.loop is not asyncio.get_running_loop():
            if self._closed:
                raise RuntimeError("this Aws is closed")
            found = self._spoken[service.name] = Client(
                service,
                self.region,
                self._endpoint_url,
                self._botocore_session,
                self._found,
                self.run,
                connect_seconds=CONNECT_SECONDS,
                read_seconds=READ_SECONDS[service.name],
            )
        return found

    def _make(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS.get(service, DEFAULT_READ_SECONDS),
            retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
            max_pool_connections=THREADS,
            tcp_keepalive=True,
        )
        make: Any = self._botocore_session().create_client
        return make(service, region_name=self.region, endpoint_url=self._endpoint_url, config=config)

    def _found(self) -> Credentials | None:
        with self._lock:
            found: Credentials | None = self._botocore_session().get_credentials()
            return found

    def _botocore_session(self) -> Session:
        with self._lock:
            if self._session is None:
                from botocore.session import Session

                self._session = Session()
                self._session.set_config_variable("region", self.region)
            return self._session


def error_code(error: BaseException) -> str:
    """AWS's code of a failed operation (`ResourceNotFoundException`), else the exception's class name."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code) if code else type(error).__name__
