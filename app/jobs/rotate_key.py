"""`python -m app job rotate-key`: a new OpenAI key in good time, and the end of the old one when nobody needs it.

Each run does what is due: it makes a key, tries it, and lets it be the current version of the secret; a later run
revokes what was replaced. Every stop between two steps leaves a key in force that works, and at most a key at OpenAI
that nobody uses; the next run finds that by its name and revokes it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable

import openai
from botocore.exceptions import BotoCoreError, ClientError

from app.aws import Aws, error_code
from app.jobs.key_secret import KeyInForce, KeySecret, Replacement, read_secret
from app.jobs.project_keys import OwnedKey, ProjectKeys
from app.jobs.settings import RotationSettings
from app.observability import metrics
from app.observability.log import write_line
from app.secret import READ_SECONDS, STALE_SECONDS, parse_key

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
CACHED_SECONDS = STALE_SECONDS + READ_SECONDS
"""The longest a replica goes on using a key that was replaced; then a request may run for as long as it may."""
PROMOTION_SECONDS = 60.0
"""At most this long after the overlap was computed, the new key is in force or never will be."""
RUN_SECONDS = 900.0
"""Longer than any run: a key that is younger may belong to a run that has not ended."""


class RotationError(Exception):
    """A step failed; the text says which, and that the key in force is untouched."""


class Rotation:
    """One run."""

    def __init__(
        self,
        settings: RotationSettings,
        secret: KeySecret,
        open_keys: Callable[[], ProjectKeys],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`open_keys` reads the admin key when it is needed, and raises RotationError when there is none."""
        self._settings = settings
        self._secret = secret
        self._open_keys = open_keys
        self._clock = clock
        # The secret's ARN is unique, so two stacks of one name in two accounts never revoke each other's keys.
        unique = hashlib.sha256(settings.openai_secret_arn.encode()).hexdigest()[:8]
        self._prefix = f"prodkit-{settings.stack}-{unique}-"
        self.age_days: float | None = None
        """Age of the key in force after the run, as far as it is known."""

    def run(self, *, now: bool = False) -> None:
        """Rotate if the key is old enough (or `now`), and revoke what is no longer needed.

        Raises RotationError when a step failed, and what AWS raised when the secret cannot be read.
        """
        current = self._secret.read()
        if current is None:
            log.info("no OpenAI key is set yet, so there is none to rotate")
            return
        self._note_age(current)
        with self._open_keys() as keys:
            if now or self._clock() - current.created_at >= self._settings.rotation_days * DAY_SECONDS:
                current = self._rotate(keys, current)
                self._note_age(current)
            self._retire(keys, current)

    def _note_age(self, key: KeyInForce) -> None:
        self.age_days = round(max(0.0, self._clock() - key.created_at) / DAY_SECONDS, 3)

    def _rotate(self, keys: ProjectKeys, current: KeyInForce) -> KeyInForce:
        """Make, verify and promote a key; the key in force afterwards."""
        made_at = self._clock()
        try:
            new = keys.create(f"{self._prefix}{int(made_at)}")
        except openai.OpenAIError as error:
            raise RotationError(f"OpenAI made no new key ({_reason(error)}); the old one stays in force") from error
        _say("key made", key_id=new.id)
        try:
            keys.verify(new.value)
            overlap = PROMOTION_SECONDS + CACHED_SECONDS + self._settings.max_stream_seconds
            replacement = Replacement(new.value, new.id, made_at, current.key_id, self._clock() + overlap)
            promoted = replacement.in_force(self._secret.stage(replacement))
        except (openai.OpenAIError, ClientError, BotoCoreError) as error:
            self._discard(keys, new.id)
            raise RotationError(f"the new key is not used ({_reason(error)}); the old one stays in force") from error
        try:
            self._secret.make_current(promoted.version, replaces=current.version)
        except (ClientError, BotoCoreError) as error:
            return self._judge(keys, promoted, current, error)
        _say("key promoted", key_id=new.id, replaced=current.key_id or "a key set by hand: revoke it at OpenAI")
        return promoted

    def _judge(
        self, keys: ProjectKeys, promoted: KeyInForce, current: KeyInForce, problem: ClientError | BotoCoreError
    ) -> KeyInForce:
        """The key in force after a promotion that failed, or that was done while its answer was lost.

        The new key is revoked only when it certainly is not in force.
        """
        assert promoted.key_id is not None
        if _is_refusal(problem):
            self._discard(keys, promoted.key_id)
            raise RotationError(f"the new key was not promoted ({_reason(problem)}); the old one stays in force")
        try:
            held = self._secret.read()
        except (ClientError, BotoCoreError):
            held = None
        if held is not None and held.version == promoted.version:
            return promoted
        if held is not None and held.version != current.version:
            self._discard(keys, promoted.key_id)
            _say("another key was set meanwhile, and stays", key_id=held.key_id)
            return held
        # The change may still show. If it does not, a later run revokes the new key by its name.
        raise RotationError(f"AWS did not say whether the new key is in force ({_reason(problem)}); both keys work")

    def _discard(self, keys: ProjectKeys, key_id: str) -> None:
        try:
            keys.revoke(key_id)
        except openai.OpenAIError as error:
            _say("an unused key could not be revoked; the next run tries again", key_id=key_id, reason=_reason(error))

    def _retire(self, keys: ProjectKeys, current: KeyInForce) -> None:
        """Revoke what was replaced, and what stopped runs left behind, once the key in force is seen to work."""
        # Without its id the key in force may be any of the listed ones: nothing is revoked.
        if current.key_id is None or self._clock() < (current.previous_retire_after or 0.0):
            return
        try:
            unneeded = [key for key in keys.owned() if self._is_unneeded(key, current)]
            if not unneeded:
                return
            keys.verify(current.value)
        except openai.OpenAIError as error:
            raise RotationError(f"nothing was revoked ({_reason(error)}); the next run tries again") from error
        held = self._secret.read()
        if held is None or held.version != current.version:
            _say("another key was set meanwhile; the next run revokes what is unneeded then")
            return
        problems = []
        for key in unneeded:
            try:
                keys.revoke(key.id)
                _say("key revoked", key_id=key.id)
            except openai.OpenAIError as error:
                problems.append(f"{key.id} ({_reason(error)})")
        if problems:
            raise RotationError(f"not revoked, the next run tries again: {', '.join(problems)}")

    def _is_unneeded(self, key: OwnedKey, current: KeyInForce) -> bool:
        ours = key.id == current.previous_key_id or key.name.startswith(self._prefix)
        return ours and key.id != current.key_id and self._clock() - key.created_at >= RUN_SECONDS


def run(
    settings: RotationSettings,
    *,
    now: bool = False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
    write: Callable[[str], object] = write_line,
) -> int:
    """Run once, write the metrics that the alarms read, and return the exit status: 0, or 1 after a failure."""
    aws = Aws(settings.aws_region, settings.aws_endpoint_url)
    rotation = None
    failures = 1
    try:
        client = aws.client("secretsmanager")
        rotation = Rotation(
            settings,
            KeySecret(client, settings.openai_secret_arn),
            lambda: ProjectKeys(settings, _admin_key(client, settings), sleep=sleep),
            clock=clock,
        )
        rotation.run(now=now)
        failures = 0
    except RotationError as error:
        log.error("key rotation failed: %s", error)
    except Exception:  # whatever it was, the alarms must hear of it
        log.exception("key rotation failed")
    finally:
        values = {metrics.JOB_RUNS: 1.0, metrics.JOB_FAILURES: float(failures)}
        if rotation is not None and rotation.age_days is not None:
            values[metrics.KEY_AGE_DAYS] = rotation.age_days
        metrics.write_once(settings.stack, settings.service, values, write=write, wall_clock=clock)
        aws.close()
    return failures


def _admin_key(client: object, settings: RotationSettings) -> str:
    answer = read_secret(client, settings.openai_admin_secret_arn)
    key = parse_key(answer.get("SecretString")) if answer else None
    if key is None:
        raise RotationError(f"the admin key is not set; set it with: make key STACK={settings.stack} ADMIN=1")
    return key


def _is_refusal(error: ClientError | BotoCoreError) -> bool:
    """Whether AWS said that it did not move the label.

    That the label is elsewhere by now is no such thing: an attempt whose answer was lost may have moved it.
    """
    if not isinstance(error, ClientError) or error_code(error) == "InvalidParameterException":
        return False
    return 400 <= error.response["ResponseMetadata"]["HTTPStatusCode"] < 500


def _reason(error: Exception) -> str:
    """A failure in a few words, without what the other side wrote."""
    status = getattr(error, "status_code", None)
    return f"{error_code(error)} {status}" if status else error_code(error)


def _say(event: str, **fields: str | None) -> None:
    log.info("key rotation", extra={"fields": {"step": event, **fields}})
