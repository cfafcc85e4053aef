"""IAM instead of a password: the token that logs a user into an ElastiCache cache."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from app.aws import Aws
    from app.settings import Settings

TOKEN_SECONDS = 900  # the longest that ElastiCache accepts
TOKEN_REFRESH_SECONDS = 600  # a new connection never presents a token in its last five minutes
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def is_serverless(host: str) -> bool:
    """Whether an ElastiCache address is a serverless cache's: `name-abc123.serverless.use1.cache.amazonaws.com`."""
    return ".serverless." in host


def iam_token(
    *,
    cache_name: str,
    user: str,
    region: str,
    serverless: bool,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    now: float,
) -> str:
    """The password that logs `user` into an ElastiCache cache for TOKEN_SECONDS from `now` (seconds since 1970).

    It is a presigned (SigV4) `connect` request without its scheme: ElastiCache checks it against IAM.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{moment[:8]}/{region}/elasticache/aws4_request"
    query = {
        "Action": "connect",
        "User": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{access_key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(TOKEN_SECONDS),
        "X-Amz-SignedHeaders": "host",
    }
    if serverless:
        query["ResourceType"] = "ServerlessCache"
    if session_token:
        query["X-Amz-Security-Token"] = session_token
    text = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
    request = "\n".join(("GET", "/", text, f"host:{cache_name}\n", "host", _EMPTY_SHA256))
    to_sign = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{secret_key}".encode()
    for part in (moment[:8], region, "elasticache", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"{cache_name}/?{text}&X-Amz-Signature={hmac.digest(key, to_sign.encode(), 'sha256').hex()}"


def token_provider(settings: Settings, aws: Aws) -> Any:
    """redis-py's source of user and token for a new connection; the token is signed again by its age."""
    from redis.credentials import CredentialProvider

    class TokenProvider(CredentialProvider):
        def __init__(self) -> None:
            self._token = ""
            self._signed = float("-inf")

        def get_credentials(self) -> tuple[str, str]:
            if time.monotonic() - self._signed > TOKEN_REFRESH_SECONDS:
                access_key, secret_key, session_token = aws.credentials()
                self._token = iam_token(
                    cache_name=settings.cache_name,
                    user=settings.cache_user,
                    region=settings.aws_region,
                    serverless=is_serverless(settings.cache_host),
                    access_key=access_key,
                    secret_key=secret_key,
                    session_token=session_token,
                    now=time.time(),
                )
                self._signed = time.monotonic()
            return settings.cache_user, self._token

        async def get_credentials_async(self) -> tuple[str, str]:
            return await aws.run(self.get_credentials)

    return TokenProvider()
