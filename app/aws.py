"""AWS clients: made when first used, with short timeouts, called from a few threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from boto3.session import Session

T = TypeVar("T")

THREADS = 8
CONNECT_SECONDS = 1.0
MAX_ATTEMPTS = 2  # with botocore's own jittered wait between them
READ_SECONDS = {
    "dynamodb": 1.5,
    "s3": 10.0,
    "sqs": 25.0,  # a long poll takes 20
    "secretsmanager": 3.0,
    "appconfigdata": 5.0,
}
DEFAULT_READ_SECONDS = 5.0


class Aws:
    """Clients of one region. boto3 is imported by the first client, not before: it costs 0.4 s and 30 MB."""

    def __init__(self, region: str, endpoint_url: str | None = None) -> None:
        """`endpoint_url` is the address of an emulated AWS, None for the real one."""
        self.region = region
        self._endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="aws")

    def client(self, service: str) -> Any:
        """The client of a service (`dynamodb`, `s3`, ...). Blocks while it is made: call it in a thread (see `run`)."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def credentials(self) -> tuple[str, str, str | None]:
        """Access key, secret key and session token in force; blocks; raises RuntimeError when there are none."""
        with self._lock:
            found = self._boto_session().get_credentials()
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
        return await self.run(lambda: getattr(self.client(service), operation)(**parameters))

    async def run(self, function: Callable[[], T]) -> T:
        """The result of a blocking function (one that reads an S3 body, say) in one of the threads for AWS."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        """Close connections; operations not yet begun are dropped. Safe to call twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _make(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS.get(service, DEFAULT_READ_SECONDS),
            retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
            max_pool_connections=THREADS,
            tcp_keepalive=True,
        )
        make: Any = self._boto_session().client  # the service is a plain name here, the stubs know only literals
        return make(service, endpoint_url=self._endpoint_url, config=config)

    def _boto_session(self) -> Session:
        if self._session is None:
            import boto3

            self._session = boto3.session.Session(region_name=self.region)
        return self._session


def error_code(error: BaseException) -> str:
    """AWS's code of a failed operation (`ResourceNotFoundException`), else the exception's class name."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code) if code else type(error).__name__
