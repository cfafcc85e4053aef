"""The tier that all replicas share: an answer, or the claim of the one replica that is asking for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache import scripts
from app.cache.entry import MAX_BODY_BYTES, Entry, decode, encode
from app.valkey.client import Asked, ValkeyAwayError, ValkeyRefusedError

if TYPE_CHECKING:
    from app.cache.place import Place
    from app.valkey.client import Valkey

BORROWED_MILLISECONDS = 5_000
"""How long an answer that is not kept stays for the replicas that already wait for it."""


@dataclass(slots=True)
class Claim:
    """What Valkey says about a question: it has the answer, another replica asks, or this one may."""

    entry: Entry | None = None
    token: str = ""
    """Of the one that asks; this replica's own when it is the one."""
    owner: str = ""
    fingerprint: str = ""
    text: bytes = b""
    """What is new of the stream that is followed."""
    over: bool = False
    """The one that was followed has ended without an answer for others."""


class Store:
    """Every method but `keep` is one round trip, `claim` two when another replica asks or what is there is worth
    nothing; bounded by the client, and raises ValkeyAwayError."""

    def __init__(self, valkey: Valkey, replica: str) -> None:
        self._valkey = valkey
        self._replica = replica

    async def claim(self, place: Place, token: str, milliseconds: int, *, anew: bool = False) -> Claim:
        """The answer, or who asks for it, or the right to ask; `anew` asks although there is an answer."""
        return await self.claimed(place, token, milliseconds, self.ask(place, token, milliseconds, anew=anew))

    def ask(self, place: Place, token: str, milliseconds: int, *, anew: bool = False) -> Asked:
        """The first half of `claim`, for who has other work to do before it waits."""
        claim = self._claim(place, token)
        if anew:
            command = scripts.CLAIM.command(_keys(place.key, token), claim, milliseconds, 1, b"")
        else:  # a script takes ten times as long
            command = ("SET", place.key, claim, "NX", "GET", "PX", milliseconds)
        return self._valkey.ask(command, ahead=True)

    async def claimed(self, place: Place, token: str, milliseconds: int, asked: Asked) -> Claim:
        """The second half of `claim`."""
        try:
            value = await self._valkey.answer(asked)
        except ValkeyRefusedError:  # a key of another type, which the script replaces; else it is refused as well
            value = b""
        said = self._said(place, token, value)
        if said is None or (said.entry is None and said.token != token):
            # Damaged, or put there by somebody else: as good as nothing. Else another asks, and is to know who waits.
            worthless = b"" if said is not None else value[: scripts.HEAD_BYTES]
            claim = self._claim(place, token)
            value = await scripts.CLAIM.call(self._valkey, _keys(place.key, token), claim, milliseconds, 0, worthless)
            said = self._said(place, token, value)
            if said is None:
                raise ValkeyAwayError("a damaged answer came back")
        return said

    async def take_over(self, place: Place, dead: str, token: str, milliseconds: int) -> bool:
        """Ask in the place of a dead replica; False when another one does already."""
        keys, claim = _keys(place.key, dead), self._claim(place, token)
        answer = await scripts.TAKE_OVER.call(self._valkey, keys, dead, claim, milliseconds)
        return bool(answer == 1)

    async def follow(self, place: Place, token: str, read: int) -> Claim:
        """What came of the claim `token`, or who has it now; with the text after the first `read` bytes."""
        value, text = await scripts.FOLLOW.call(self._valkey, _keys(place.key, token), token, read)
        said = None if value is None else self._said(place, token, value)
        if said is not None and (said.entry is not None or said.token == token):
            said.text = text
            return said
        borrowed = decode(place.key, text) if text else None
        return Claim(borrowed, over=True) if said is None or borrowed is not None else said

    def keep(self, place: Place, token: str, entry: Entry) -> None:
        """Store an answer and end the claim, waiting for nothing; not when another replica has the claim by now."""
        if len(entry.body) > MAX_BODY_BYTES:
            scripts.RELEASE.post(self._valkey, _keys(place.key, token), token, b"", BORROWED_MILLISECONDS)
            return
        milliseconds = int(1000 * (entry.fresh_seconds + entry.stale_seconds + entry.spare_seconds))
        value = encode(place.key, entry)
        scripts.KEEP.post(self._valkey, _keys(place.key, token), token, value, max(1, milliseconds))

    async def release(self, place: Place, token: str, borrowed: Entry | None) -> None:
        """End the claim without an answer to keep; those who wait get `borrowed`, or ask themselves."""
        value = encode(place.key, borrowed) if borrowed and len(borrowed.body) <= MAX_BODY_BYTES else b""
        await scripts.RELEASE.call(self._valkey, _keys(place.key, token), token, value, BORROWED_MILLISECONDS)

    async def publish(self, place_key: str, token: str, text: bytes, told: int) -> bool:
        """Add to the text of a stream for those who follow it, after the `told` bytes before; False when the claim is
        lost, or those bytes are: then the whole answer is all that follows."""
        return bool(await scripts.PUBLISH.call(self._valkey, _keys(place_key, token), token, text, told) == 1)

    async def tell(self, owner: str, key: str, token: str) -> None:
        """Tell the replica that asks that this one hears its stream."""
        await scripts.TELL.call(self._valkey, (scripts.inbox(owner),), key, token)

    def _claim(self, place: Place, token: str) -> str:
        return f"{scripts.CLAIMED}0{token} {self._replica} {place.fingerprint}"

    def _said(self, place: Place, token: str, value: bytes | None) -> Claim | None:
        """What a value under a question's key says, nothing being the right to ask; None when it is worth nothing."""
        if value is None:
            return Claim(token=token, owner=self._replica, fingerprint=place.fingerprint)
        if found := _CLAIM.fullmatch(value):
            token, owner, fingerprint = [part.decode() for part in found.groups()]
            return Claim(None, token, owner, fingerprint)
        entry = decode(place.key, value)
        return None if entry is None else Claim(entry, fingerprint=entry.fingerprint)


_CLAIM = re.compile(rf"{scripts.CLAIMED}[01]([!-~]{{1,80}}) ([!-~]{{1,80}}) ([!-~]{{0,80}})".encode())


def _keys(place_key: str, token: str) -> tuple[str, str, str]:
    """Of a question, of a claim beside its answer, and of the text of a claim's stream."""
    return place_key, f"{place_key}:anew", f"{place_key}:{token}"
