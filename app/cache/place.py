"""Where the answer to a request belongs, and whether it belongs anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.key import canonical, fingerprint, question_key
from app.cache.watch import fields_of
from app.cache.wishes import NONE, Wishes, idempotency_key, tags_of, wishes_of
from app.models import CachePolicy

if TYPE_CHECKING:
    from app.pipeline.choose import Plan
    from app.pipeline.messages import Call

IDEMPOTENT_SECONDS = 86_400
"""How long an idempotency key stands for the answer it got first."""
MAX_TEMPERATURE = 1
"""OpenAI's default. Whoever asks for more wants another answer each time."""


@dataclass(slots=True)
class Place:
    """Where an answer is kept, and how long."""

    tenant: str
    path: str
    stream: bool
    """A stream and a whole answer are kept apart, each as its caller gets it."""
    question: bytes
    fields: tuple[str, ...]
    """The epochs it depends on; none for an idempotency key, which stands for one answer whatever happens."""
    policy: CachePolicy
    wishes: Wishes = NONE
    spare_seconds: int = 0
    """How long an answer is kept at the least, for when the budget nears its end."""
    fingerprint: str = ""
    """Of the request behind an idempotency key."""
    stamp: str = ""
    key: str = ""
    """For the epochs of `stamp`."""

    def at(self, stamp: str) -> str:
        """The key of the answer for these epochs."""
        if not self.key or stamp != self.stamp:
            form = f"{self.path}\0stream" if self.stream else f"{self.path}\0whole"
            depends = "\0".join([*self.fields, stamp])  # no path and no stamp holds a NUL
            self.key = question_key(self.tenant, form.encode(), self.question, depends.encode())
            self.stamp = stamp
        return self.key


def place_of(call: Call, plan: Plan) -> Place | None:
    """The place of a call's answer; None when nothing is to be read or kept. Raises ApiError for a bad header.

    The rule: endpoints that the model document keeps answers for (never moderations), one choice, a temperature that is
    not above OpenAI's default, and no `Cache-Control: no-store`.
    """
    wishes = wishes_of(call.headers)
    tags = tags_of(call.headers)
    idempotent = idempotency_key(call.headers)
    tenant, path = call.identity.tenant, plan.endpoint.path
    if idempotent is not None:
        question = b"\0idempotent\0" + idempotent.encode()
        policy = CachePolicy(IDEMPOTENT_SECONDS, 0)
        return Place(tenant, path, plan.stream, question, (), policy, fingerprint=fingerprint(call.body))
    policy = plan.models.cache_policy(path)
    if wishes.no_store or not plan.endpoint.cached or policy.ttl_seconds <= 0:
        return None
    document = plan.document
    temperature = document.get("temperature")
    if (temperature is not None and temperature > MAX_TEMPERATURE) or (document.get("n") or 1) > 1:
        return None
    return Place(tenant, path, plan.stream, canonical(path, document), fields_of(tenant, tags), policy, wishes)
