"""OpenAI's errors as of November 2026: one table from code to status and type, and the body that goes with them."""

from typing import Any

# code -> (status, type); the 429s below rate_limit_exceeded and slow_down need a person, not a retry.
CODES: dict[str, tuple[int, str]] = {
    "invalid_api_key": (401, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "rate_limit_exceeded": (429, "requests"),
    "slow_down": (429, "rate_limit_error"),
    "insufficient_quota": (429, "insufficient_quota"),
    "credit_balance_exhausted": (429, "insufficient_quota"),
    "organization_spend_limit_exceeded": (429, "insufficient_quota"),
    "project_spend_limit_exceeded": (429, "insufficient_quota"),
    "organization_usage_limit_exceeded": (429, "insufficient_quota"),
    "billing_hard_limit_reached": (429, "insufficient_quota"),
    "unsupported_country_region_territory": (403, "request_forbidden"),
    "server_error": (500, "server_error"),
    "server_is_overloaded": (503, "service_unavailable_error"),
}
MESSAGES = {
    "slow_down": "Your request rate increased too quickly. Reduce it and raise it again gradually.",
    "insufficient_quota": "You exceeded your current quota, please check your plan and billing details.",
    "credit_balance_exhausted": "Your credit balance is exhausted. Add credits to continue.",
    "organization_spend_limit_exceeded": "Your organization has reached its monthly spend limit.",
    "project_spend_limit_exceeded": "This project has reached its monthly spend limit.",
    "server_error": "The server had an error while processing your request. Sorry about that!",
    "server_is_overloaded": "Our servers are currently overloaded. Please try again later.",
    "rate_limit_exceeded": "Rate limit reached. Please try again later.",
}


class ApiError(Exception):
    """An answer other than success: status, OpenAI's error fields, and headers to add."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The body in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def coded(code: str, message: str | None = None, status: int | None = None) -> ApiError:
    """The error that goes with `code`; an unknown code is a 500 `server_error` type unless `status` says otherwise."""
    known_status, kind = CODES.get(code, (500, "server_error"))
    return ApiError(status or known_status, message or MESSAGES.get(code, code), code, kind=kind)


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 `invalid_request_error` about one parameter."""
    return ApiError(400, message, code, param=param)


def unknown_parameter(name: str) -> ApiError:
    """The 400 for a parameter that the endpoint does not have."""
    return bad(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def unsupported_parameter(name: str, advice: str = "") -> ApiError:
    """The 400 for a parameter that this model refuses; `advice` names the way out."""
    text = f"Unsupported parameter: '{name}' is not supported with this model."
    return bad(f"{text} {advice}".rstrip(), name, "unsupported_parameter")


def unsupported_value(name: str, value: str, supported: tuple[str, ...]) -> ApiError:
    """The 400 for a value that this model refuses."""
    listed = ", ".join(f"'{item}'" for item in supported)
    text = f"Unsupported value: '{value}' is not supported with this model. Supported values are: {listed}."
    return bad(text, name, "unsupported_value")


def not_simulated(name: str) -> ApiError:
    """The 400 for a real feature that the simulator does not play: better refused than answered wrongly."""
    return bad(f"The simulator does not play '{name}'.", name, "not_simulated")
