"""Whether a failed attempt is made again, and when: by botocore's own standard mode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.awsjson.wire import Answer, Service

MAX_ATTEMPTS = 2
COST, EARNED = 14, 1
"""botocore's price of a retry, out of 500 that each call which needs none fills up by one: when AWS is in trouble, not
everybody asks twice."""


class Retries:
    """The quota of one service, and botocore's lists of what may be repeated.

    As there, an attempt that was cut may have been carried out; a repeated write has to be one that may be, or to carry
    a token.
    """

    def __init__(self, service: Service) -> None:
        from botocore.retries import standard
        from botocore.retries.quota import RetryQuota

        made: Any = standard
        throttled = made.ThrottlingErrorDetector(None)
        self._throttled = throttled.is_throttling_error_from_context
        self._context = made.RetryContext
        self._transient = made.TransientRetryableChecker().is_retryable
        self._pause = made.ExponentialBackoff(service_name=service.name, throttling_detector=throttled).delay_amount
        self._quota = RetryQuota()

    def pause(self, error: Exception, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        from botocore.exceptions import ChecksumError

        response: Answer | None = getattr(error, "response", None)
        context = self._context(
            attempt_number=attempt,
            parsed_response=response,
            http_response=None if response is None else _http(response),
            caught_exception=error if response is None else None,
        )
        again = self._throttled(context) or isinstance(error, ChecksumError) or self._transient(context)
        if attempt >= MAX_ATTEMPTS or not again or not self._quota.acquire(COST):
            return None
        return float(self._pause(context))

    def succeeded(self, attempts: int) -> None:
        """A call was answered at its so-manieth attempt."""
        self._quota.release(EARNED if attempts == 1 else COST)


def _http(response: Answer) -> SimpleNamespace:
    said = response["ResponseMetadata"]
    return SimpleNamespace(status_code=said["HTTPStatusCode"], headers=said["HTTPHeaders"])
