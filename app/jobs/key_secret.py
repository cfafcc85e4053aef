"""The OpenAI key's secret, as the rotation sees it: the key in force, what it replaced, and the change to another.

The secret's string is the key itself when an operator wrote it, and this JSON when the rotation did:
`{"api_key", "key_id", "created_at", "previous_key_id", "previous_retire_after"}`, times in seconds since 1970.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from app.aws import error_code
from app.secret import parse_key

_NO_VALUE = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class KeyInForce:
    """The current version of the secret."""

    value: str = field(repr=False)
    version: str
    """Id of the secret's version."""
    created_at: float
    """When the key was made; when it was written, for a key that an operator set."""
    key_id: str | None = None
    """OpenAI's id of the key; None for a key that an operator set."""
    previous_key_id: str | None = None
    previous_retire_after: float | None = None
    """The time until which the replaced key must work."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What the secret is to hold next."""

    value: str = field(repr=False)
    key_id: str
    created_at: float
    previous_key_id: str | None
    previous_retire_after: float

    def document(self) -> str:
        """The secret's string."""
        return json.dumps(
            {
                "api_key": self.value,
                "key_id": self.key_id,
                "created_at": self.created_at,
                "previous_key_id": self.previous_key_id,
                "previous_retire_after": self.previous_retire_after,
            }
        )

    def in_force(self, version: str) -> KeyInForce:
        """The key as it will be read once `version` of the secret is the current one."""
        return KeyInForce(
            self.value, version, self.created_at, self.key_id, self.previous_key_id, self.previous_retire_after
        )


class KeySecret:
    """One secret. Every method raises botocore's ClientError or BotoCoreError when AWS does not do as asked."""

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    def read(self) -> KeyInForce | None:
        """The key in force, or None while the secret has no value."""
        answer = read_secret(self._client, self._arn)
        value = parse_key(answer.get("SecretString")) if answer else None
        if answer is None or value is None:
            return None
        state = _state(answer["SecretString"])
        written = answer["CreatedDate"].timestamp()
        retire_after = state.get("previous_retire_after")
        return KeyInForce(
            value=value,
            version=answer["VersionId"],
            created_at=float(state.get("created_at") or written),
            key_id=state.get("key_id"),
            previous_key_id=state.get("previous_key_id"),
            previous_retire_after=None if retire_after is None else float(retire_after),
        )

    def stage(self, replacement: Replacement) -> str:
        """Write a version that nobody reads yet; returns its id."""
        version = str(uuid.uuid4())
        self._client.put_secret_value(
            SecretId=self._arn,
            ClientRequestToken=version,
            SecretString=replacement.document(),
            VersionStages=["AWSPENDING"],
        )
        return version

    def make_current(self, version: str, *, replaces: str) -> None:
        """Let a staged version be the current one, if `replaces` still is: of two runs at once, one is refused."""
        self._client.update_secret_version_stage(
            SecretId=self._arn, VersionStage="AWSCURRENT", MoveToVersionId=version, RemoveFromVersionId=replaces
        )


def read_secret(client: Any, arn: str) -> dict[str, Any] | None:
    """Secrets Manager's answer about the current version, or None while the secret has no value."""
    try:
        answer: dict[str, Any] = client.get_secret_value(SecretId=arn)
    except ClientError as error:
        if error_code(error) == _NO_VALUE:
            return None
        raise
    return answer


def _state(text: str) -> dict[str, Any]:
    """What the rotation wrote beside the key; nothing for a plain key."""
    state: dict[str, Any] = json.loads(text) if text.lstrip().startswith("{") else {}
    return state
