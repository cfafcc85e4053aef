"""What a budget or a hold is about: the whole service, a tenant, a key or a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.keys import Identity

ORG = "org"
"""Everything that this stack pays for."""
_SCOPES = {
    "tenant": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "key": re.compile(r"[0-9a-f]{12}"),
    "model": re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}"),
}
PATTERN = "|".join([ORG, *(f"{kind}:{name.pattern}" for kind, name in _SCOPES.items())])


def scope_of(text: str) -> str:
    """A scope as a person wrote it; raises ValueError that shows how one looks."""
    kind, _, name = text.partition(":")
    if text == ORG or (kind in _SCOPES and _SCOPES[kind].fullmatch(name)):
        return text
    raise ValueError(
        f"scope={text!r} is none; write org, tenant:NAME, key:KEY_ID (12 hex digits) or model:MODEL (OpenAI's name)"
    )


def scopes_of(identity: Identity, model: str) -> tuple[str, str, str, str]:
    """The scopes that one call belongs to, the widest first."""
    return ORG, f"tenant:{identity.tenant}", f"key:{identity.key_id}", f"model:{model}"


def described(scope: str) -> str:
    """A scope within a sentence."""
    kind, _, name = scope.partition(":")
    return {"tenant": f"tenant {name}", "key": f"key {name}", "model": f"model {name}"}.get(kind, "this service")
