"""Rate limits of keys, tenants, models, the fleet and OpenAI: leased in blocks from Valkey, granted in memory."""

from app.limits.headers import go_duration, rate_headers
from app.limits.limiter import Grant, Limiter
from app.limits.scope import Limits
from app.limits.scripts import KEY_PREFIX, SCRIPTS

__all__ = ["KEY_PREFIX", "SCRIPTS", "Grant", "Limiter", "Limits", "go_duration", "rate_headers"]
