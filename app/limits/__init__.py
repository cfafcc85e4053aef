"""Rate limits of keys, tenants, models, the fleet and OpenAI: leased in blocks from Valkey, granted in memory."""

from app.limits.headers import go_duration, rate_headers
from app.limits.limiter import ANYBODY, Caller, Grant, Limiter
from app.limits.policy import Policy, TenantPolicy, read_policy
from app.limits.queue import BACKGROUND, INTERACTIVE, PRIORITY_HEADER
from app.limits.scope import Limits
from app.limits.scripts import KEY_PREFIX, SCRIPTS

__all__ = [
    "ANYBODY",
    "BACKGROUND",
    "INTERACTIVE",
    "KEY_PREFIX",
    "PRIORITY_HEADER",
    "SCRIPTS",
    "Caller",
    "Grant",
    "Limiter",
    "Limits",
    "Policy",
    "TenantPolicy",
    "go_duration",
    "rate_headers",
    "read_policy",
]
