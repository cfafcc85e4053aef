"""What can go wrong with a request: one table from error code to status, type and the domain that is to blame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import orjson


class Domain(StrEnum):
    """Who has to act: the caller, nobody (policy at work), OpenAI, or this service; only `us` may roll back."""

    CALLER = "caller"
    POLICY = "policy"
    UPSTREAM = "upstream"
    US = "us"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """HTTP status, OpenAI error `type`, domain, and whether sending the same request again can help."""

    status: int
    type: str
    domain: Domain
    retryable: bool = False


# OpenAI's own codes keep OpenAI's status and type, so that clients which branch on them work unchanged.
KINDS: Mapping[str, ErrorKind] = {
    # the caller's request
    "invalid_request_error": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "invalid_json": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "missing_required_parameter": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "invalid_type": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "invalid_value": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "unsupported_parameter": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "invalid_api_key": ErrorKind(401, "authentication_error", Domain.CALLER),
    "insufficient_permissions": ErrorKind(403, "permission_error", Domain.CALLER),
    "model_not_found": ErrorKind(404, "invalid_request_error", Domain.CALLER),
    "not_found": ErrorKind(404, "invalid_request_error", Domain.CALLER),
    "unsupported_endpoint": ErrorKind(404, "invalid_request_error", Domain.CALLER),
    "method_not_allowed": ErrorKind(405, "invalid_request_error", Domain.CALLER),
    "request_timeout": ErrorKind(408, "invalid_request_error", Domain.CALLER, retryable=True),
    "idempotency_key_reused": ErrorKind(400, "invalid_request_error", Domain.CALLER),
    "not_cached": ErrorKind(504, "invalid_request_error", Domain.CALLER),
    "conflict": ErrorKind(409, "invalid_request_error", Domain.CALLER),
    "request_too_large": ErrorKind(413, "invalid_request_error", Domain.CALLER),
    "unsupported_media_type": ErrorKind(415, "invalid_request_error", Domain.CALLER),
    # our policy, doing its work
    "not_allowed": ErrorKind(403, "permission_error", Domain.POLICY),
    "rate_limit_exceeded": ErrorKind(429, "rate_limit_error", Domain.POLICY, retryable=True),
    "overloaded": ErrorKind(503, "service_unavailable_error", Domain.POLICY, retryable=True),
    "api_key_missing": ErrorKind(503, "service_unavailable_error", Domain.POLICY),
    "price_missing": ErrorKind(503, "service_unavailable_error", Domain.POLICY),
    "insufficient_quota": ErrorKind(429, "insufficient_quota", Domain.POLICY),
    "spending_held": ErrorKind(403, "permission_error", Domain.POLICY),
    "ledger_unavailable": ErrorKind(503, "service_unavailable_error", Domain.POLICY, retryable=True),
    # OpenAI
    "upstream_unreachable": ErrorKind(502, "upstream_error", Domain.UPSTREAM, retryable=True),
    "upstream_invalid_response": ErrorKind(502, "upstream_error", Domain.UPSTREAM),
    "upstream_incomplete": ErrorKind(502, "upstream_error", Domain.UPSTREAM),
    "upstream_unavailable": ErrorKind(503, "upstream_error", Domain.UPSTREAM, retryable=True),
    "upstream_quota_exhausted": ErrorKind(503, "upstream_error", Domain.UPSTREAM),
    "upstream_timeout": ErrorKind(504, "upstream_error", Domain.UPSTREAM, retryable=True),
    # this service
    "internal_error": ErrorKind(500, "server_error", Domain.US, retryable=True),
    "service_unavailable": ErrorKind(503, "service_unavailable_error", Domain.US, retryable=True),
}

# 429 answers of OpenAI that only a person can end: another attempt is one more failed call on the meter.
BILLING_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)


class ApiError(Exception):
    """A request ends with an answer in OpenAI's error shape.

    `code` is a key of KINDS and decides status, type and domain (KeyError otherwise); `message` names the fix and goes
    to the caller as it is, so it never holds a secret; `param` is the path of the field at fault; `headers` go with
    the answer.
    """

    def __init__(
        self, code: str, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        kind = KINDS[code]
        self.code = code
        self.message = message
        self.param = param
        self.headers: Mapping[str, str] = dict(headers or {})
        self.status = kind.status
        self.type = kind.type
        self.domain = kind.domain
        self.retryable = kind.retryable

    def again(self) -> ApiError:
        """The same for somebody else, or for later: one that was raised holds on to all that those who raised it had
        in hand, the request's body too, and whoever keeps it is held in turn, until the collector of garbage comes."""
        made = ApiError(self.code, self.message, param=self.param, headers=self.headers)
        made.__cause__ = self.__cause__
        return made

    def body(self) -> bytes:
        """The answer's JSON: `{"error": {"message", "type", "param", "code"}}`."""
        return error_body(self.message, self.type, self.param, self.code)


def error_body(message: str, error_type: str, param: str | None, code: str | None) -> bytes:
    """OpenAI's error object as JSON bytes."""
    return orjson.dumps({"error": {"message": message, "type": error_type, "param": param, "code": code}})


def upstream_domain(status: int) -> Domain:
    """Who is to blame for an error status of OpenAI: a 4xx is about the request, unless about our key or our quota."""
    return Domain.UPSTREAM if status >= 500 or status in (401, 403, 407, 408, 429) else Domain.CALLER
