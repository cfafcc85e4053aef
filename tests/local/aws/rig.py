"""An emulated AWS in this process, and clients of it that remember which operations were answered."""

import json
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config

from local.aws.server import server

REGION = "us-east-1"


class Rig:
    """Clients of one emulated AWS; `answered` holds `service:Operation` for every call that succeeded."""

    def __init__(self, everything: bool = True) -> None:
        self._http = server(everything=everything)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self._clients: dict[str, Any] = {}
        self.answered: set[str] = set()

    def client(self, service: str) -> Any:
        """boto3's client of a service."""
        if service not in self._clients:
            # S3 Control puts the account before the host: such a request arrives as at a proxy.
            proxies = {"http": self.url} if service == "s3control" else None
            made = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION).client(
                service,  # type: ignore[call-overload]  # which one is only known when it is asked for
                endpoint_url=self.url,
                config=Config(retries={"total_max_attempts": 1}, proxies=proxies),
            )
            made.meta.events.register("after-call", self._note)
            self._clients[service] = made
        return self._clients[service]

    def _note(self, http_response: Any, model: Any, **_: Any) -> None:
        if http_response.status_code < 300:
            self.answered.add(f"{model.service_model.service_name}:{model.name}")

    def admin(self, path: str, **body: Any) -> dict[str, Any]:
        """POST to /_emulator/<path>."""
        request = urllib.request.Request(f"{self.url}/_emulator/{path}", data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request) as answer:
            parsed: dict[str, Any] = json.load(answer)
            return parsed

    def close(self) -> None:
        """End the server."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def subset(answer: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted members of an answer, to compare with what was sent."""
    return {name: answer.get(name) for name in wanted}
