"""Which limits a call has to pass, as the models document says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.limits.scope import Limits

DEFAULT_WEIGHT = 1
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """Limits of all of a tenant's keys together, and its part of what several tenants wait for."""

    limits: Limits = NO_LIMITS
    weight: float = DEFAULT_WEIGHT


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits by whom and what they count; 0 = none."""

    keys: Limits
    """Of a key that has none of its own."""
    tenant: TenantPolicy = field(default_factory=TenantPolicy)
    """Of a tenant that has none of its own."""
    tenants: Mapping[str, TenantPolicy] = field(default_factory=dict)
    models: Mapping[str, Limits] = field(default_factory=dict)
    fleet: Limits = NO_LIMITS

    def of_tenant(self, name: str) -> TenantPolicy:
        """What holds for a tenant."""
        return self.tenants.get(name, self.tenant)


def read_policy(document: Mapping[str, Any]) -> Policy:
    """The limits in a checked models document."""
    tenants = document.get("tenants", {})
    default = _tenant(tenants.get("default", {}), TenantPolicy())
    return Policy(
        keys=_limits(document["keys"]),
        tenant=default,
        tenants={name: _tenant(entry, default) for name, entry in tenants.get("named", {}).items()},
        models={
            name: _limits(entry["rate_limits"]) for name, entry in document["models"].items() if "rate_limits" in entry
        },
        fleet=_limits(document.get("fleet", {})),
    )


def _limits(entry: Mapping[str, Any], otherwise: Limits = NO_LIMITS) -> Limits:
    return Limits(
        entry.get("requests_per_minute", otherwise.requests),
        entry.get("tokens_per_minute", otherwise.tokens),
        entry.get("streams", otherwise.streams),
    )


def _tenant(entry: Mapping[str, Any], otherwise: TenantPolicy) -> TenantPolicy:
    return TenantPolicy(_limits(entry, otherwise.limits), entry.get("weight", otherwise.weight))
