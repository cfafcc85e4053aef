"""The keys of one service account, over OpenAI's Admin API. Key values are in no log line and no error of this module.

An admin key cannot call a model and a project's key cannot call the Admin API, so verifying uses a client of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import openai

from app.jobs.settings import RotationSettings

CALL_SECONDS = 20.0
LIST_LIMIT = 100  # keys in a page, the most there are
VERIFY_WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses between attempts with a key: OpenAI's servers do not all know a new one at once."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; OpenAI shows its value this once."""

    id: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """A key that the service account has."""

    id: str
    name: str
    created_at: float


class ProjectKeys:
    """Makes, tries, lists and revokes keys. Every method raises openai.OpenAIError when OpenAI does not do as asked."""

    def __init__(
        self, settings: RotationSettings, admin_key: str, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._project = settings.openai_project_id
        self._account = settings.openai_service_account_id
        self._base_url = settings.openai_base_url
        self._sleep = sleep
        self._client = openai.OpenAI(admin_api_key=admin_key, base_url=self._base_url, timeout=CALL_SECONDS)

    def __enter__(self) -> ProjectKeys:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._client.close()

    def create(self, name: str) -> NewKey:
        """A new key of the service account."""
        # Not tried again: an answer that was lost would leave a key behind that nobody knows.
        once = self._client.with_options(max_retries=0)
        made = once.admin.organization.projects.service_accounts.api_keys.create(
            self._account, project_id=self._project, name=name
        )
        return NewKey(made.id, made.value)

    def verify(self, value: str) -> None:
        """Return once OpenAI answers a free call with this key; raises its last refusal after about a minute."""
        with openai.OpenAI(api_key=value, base_url=self._base_url, timeout=CALL_SECONDS, max_retries=0) as client:
            for pause in VERIFY_WAITS_SECONDS:
                with contextlib.suppress(openai.APIError):  # the last attempt is outside of this, and says why
                    client.models.list()
                    return
                self._sleep(pause)
            client.models.list()

    def owned(self) -> list[OwnedKey]:
        """Every key of the service account."""
        # "any": without it, OpenAI may leave enabled keys out.
        listed = self._client.admin.organization.projects.api_keys.list(
            self._project, limit=LIST_LIMIT, owner_project_access="any"
        )
        return [
            OwnedKey(key.id, key.name, float(key.created_at))
            for key in listed
            if key.owner.service_account is not None and key.owner.service_account.id == self._account
        ]

    def revoke(self, key_id: str) -> None:
        """Delete a key; one that is gone already is fine."""
        with contextlib.suppress(openai.NotFoundError):
            self._client.admin.organization.projects.api_keys.delete(key_id, project_id=self._project)
